/* What batch normalisation does by channel: few numbers, for which every call of torch's takes longer than the sums. */

/* scale = weight / sqrt(variance + eps); the running averages, unless NULL, take mean and unbiased variance. */
API void scale_forward(const float *mean, const float *variance, const float *weight, float eps, int channels,
                       long pixels, float momentum, float *running_mean, float *running_variance, float *scale) {
    for (int c = 0; c < channels; c++) scale[c] = weight[c] / sqrtf(variance[c] + eps);
    if (!running_mean || !running_variance) return;
    const float unbiased = (float)((double)pixels / (pixels - 1));
    for (int c = 0; c < channels; c++) {
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_variance[c] += momentum * (variance[c] * unbiased - running_variance[c]);
    }
}

/* Gradients of variance and weight, from that of scale. */
API void scale_backward(const float *variance, const float *weight, float eps, int channels, const float *of_scale,
                        float *of_variance, float *of_weight) {
    for (int c = 0; c < channels; c++) {
        const float inverse = 1 / sqrtf(variance[c] + eps);
        of_weight[c] = of_scale[c] * inverse;
        of_variance[c] = -0.5f * of_weight[c] * weight[c] * inverse * inverse;
    }
}
