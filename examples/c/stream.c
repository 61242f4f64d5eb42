/* Classify a stream of frames, such as a camera's or a film's.
 *
 *     cc -O3 -march=native -I photos -DNETWORK=muffnet_x0_5 -DSIZES=MUFFNET_X0_5 \
 *         stream.c photos/model.c -lm -o stream
 *     ffmpeg -loglevel error -i film.mp4 -vf scale=32:32 -pix_fmt rgb24 -f rawvideo - | ./stream photos/model.bin
 *
 * `photos` is an artifact of `compactnets export` or `quantize --format c`; NETWORK is the prefix of the functions in its
 * model.h, SIZES that of its constants. Standard input has frames of the network's size, 8 bits a channel, channels
 * last, nothing between them.
 *
 * A line for each change: the number of the frame, the class that leads (a number, in the order of the artifact's
 * labels), and its share. Probabilities are averaged over about eight frames, so that one frame alone seldom changes it. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define CALL(name) JOIN(NETWORK, name)
#define SIZE(name) JOIN(SIZES, name)

static const double MEMORY = 1.0 / 8; /* what a new frame counts */

/* memory at a multiple of 64 bytes, as the network wants it */
static void *memory_for(size_t bytes) {
    char *room = malloc(bytes + 64);
    if (!room) {
        fputs("stream: not enough memory\n", stderr);
        exit(1);
    }
    return room + 64 - (uintptr_t)room % 64;
}

static void *read_weights(const char *path, size_t bytes) {
    void *weights = memory_for(bytes);
    FILE *file = fopen(path, "rb");
    if (!file || fread(weights, 1, bytes, file) != bytes || fgetc(file) != EOF) {
        fprintf(stderr, "stream: %s: expected the model.bin of this network, %zu bytes\n", path, bytes);
        exit(1);
    }
    fclose(file);
    return weights;
}

int main(int count, char **arguments) {
    if (count != 2) {
        fputs("usage: stream model.bin < frames\n", stderr);
        return 2;
    }
    const size_t inputs = SIZE(_CHANNELS) * SIZE(_HEIGHT) * SIZE(_WIDTH), outputs = SIZE(_OUTPUTS);
    const void *weights = read_weights(arguments[1], SIZE(_WEIGHT_BYTES));
    void *arena = memory_for(CALL(_arena_bytes)());
    uint8_t *frame = memory_for(inputs);
    float *logits = memory_for(outputs * sizeof *logits);
    double *share = memory_for(outputs * sizeof *share);
    for (size_t i = 0; i < outputs; i++) share[i] = 0;

    size_t leader = outputs, read;
    for (long number = 0; (read = fread(frame, 1, inputs, stdin)) == inputs; number++) {
        CALL(_run_pixels)(weights, arena, frame, logits);
        double largest = logits[0], total = 0;
        for (size_t i = 1; i < outputs; i++) largest = logits[i] > largest ? logits[i] : largest;
        for (size_t i = 0; i < outputs; i++) total += exp(logits[i] - largest);
        size_t best = 0;
        for (size_t i = 0; i < outputs; i++) {
            const double now = exp(logits[i] - largest) / total;
            share[i] = number ? share[i] + MEMORY * (now - share[i]) : now;
            if (share[i] > share[best]) best = i;
        }
        if (best != leader) {
            printf("%ld %zu %.4f\n", number, best, share[best]);
            fflush(stdout);
            leader = best;
        }
    }
    if (read) {
        fprintf(stderr, "stream: the last frame has %zu bytes of %zu: is the size right?\n", read, inputs);
        return 1;
    }
    return 0;
}
