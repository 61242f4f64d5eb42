/* The network for Java: the native part of Classifier.java.
 *
 * Compiled with an artifact's model.c (CMakeLists.txt); NETWORK is the prefix of the functions in its model.h, SIZES
 * that of its constants. */
#include <jni.h>
#include <stdint.h>
#include <stdlib.h>

#include "model.h"

#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define CALL(name) JOIN(NETWORK, name)
#define SIZE(name) JOIN(SIZES, name)

/* channels, height, width, outputs, and the bytes of model.bin */
JNIEXPORT jintArray JNICALL Java_compactnets_Classifier_sizes(JNIEnv *env, jclass type) {
    (void)type;
    const jint sizes[] = {SIZE(_CHANNELS), SIZE(_HEIGHT), SIZE(_WIDTH), SIZE(_OUTPUTS), SIZE(_WEIGHT_BYTES)};
    jintArray found = (*env)->NewIntArray(env, 5);
    if (found) (*env)->SetIntArrayRegion(env, found, 0, 5, sizes);
    return found;
}

static intptr_t past(const void *at) { return -(intptr_t)at & 63; } /* to the next multiple of 64 */

JNIEXPORT jint JNICALL Java_compactnets_Classifier_offset(JNIEnv *env, jclass type, jobject buffer) {
    (void)type;
    return (jint)past((*env)->GetDirectBufferAddress(env, buffer));
}

/* Weights and pixels are direct buffers, whose lengths Java has checked. A call has memory of its own, so threads may
 * share the weights. */
JNIEXPORT jfloatArray JNICALL Java_compactnets_Classifier_run(JNIEnv *env, jclass type, jobject weights,
                                                              jobject pixels) {
    (void)type;
    const char *at = (*env)->GetDirectBufferAddress(env, weights);
    char *room = malloc(CALL(_arena_bytes)() + 64);
    if (!room) {
        jclass error = (*env)->FindClass(env, "java/lang/OutOfMemoryError");
        if (error) (*env)->ThrowNew(env, error, "the network's working memory");
        return NULL;
    }
    float logits[SIZE(_OUTPUTS)];
    CALL(_run_pixels)(at + past(at), room + past(room), (*env)->GetDirectBufferAddress(env, pixels), logits);
    free(room);
    jfloatArray found = (*env)->NewFloatArray(env, SIZE(_OUTPUTS));
    if (found) (*env)->SetFloatArrayRegion(env, found, 0, SIZE(_OUTPUTS), logits);
    return found;
}
