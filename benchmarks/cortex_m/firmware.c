/* A network alone on a Cortex-M under QEMU: no C library, no heap, weights in flash, everything else in static RAM.
 *
 * The debugger's file calls (semihosting), which QEMU answers, bring the image in and the logits out; on a board, the
 * camera's driver fills NAME_pixels, and the application reads `logits`. Compiled with -DNETWORK=name -DMACROS=NAME. */
#include "model.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define CONSTANT(name) JOIN(MACROS, name)
#define FUNCTION(name) JOIN(NETWORK, name)

static uint8_t arena[CONSTANT(_ARENA_BYTES)] __attribute__((aligned(64)));
enum { PIXELS = CONSTANT(_HEIGHT) * CONSTANT(_WIDTH) * CONSTANT(_CHANNELS) }; /* in the arena, until the run */
static float logits[CONSTANT(_OUTPUTS)];

extern uint32_t stack_end[], stack_top[];
enum { OPEN = 1, CLOSE = 2, WRITE = 5, READ = 6, EXIT = 0x20, PAINT = 0x5a5a5a5a };

static int32_t host(int32_t operation, const void *arguments) {
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory", "cc");
    return r0;
}

__attribute__((noreturn)) static void stop(uint32_t code) {
    const uint32_t arguments[2] = {0x20026, code}; /* the program ended by itself */
    for (;;) host(EXIT, arguments);
}

/* All bytes of a file, from or to memory. */
static void move(const char *name, uint32_t length, uint32_t mode, int32_t operation, const void *memory, uint32_t bytes) {
    const uintptr_t opened[3] = {(uintptr_t)name, mode, length};
    const int32_t file = host(OPEN, opened);
    if (file < 0) stop(10);
    const uintptr_t moved[3] = {(uintptr_t)file, (uintptr_t)memory, bytes};
    if (host(operation, moved) != 0) stop(11); /* bytes that were not moved */
    const uintptr_t closed[1] = {(uintptr_t)file};
    host(CLOSE, closed);
}

/* What compilers call for loops that clear or copy. */
void *memset(void *to, int value, size_t bytes) {
    for (volatile uint8_t *each = (volatile uint8_t *)to; bytes > 0; bytes--) *each++ = (uint8_t)value;
    return to;
}
void *memcpy(void *to, const void *from, size_t bytes) {
    const uint8_t *source = (const uint8_t *)from;
    for (volatile uint8_t *each = (volatile uint8_t *)to; bytes > 0; bytes--) *each++ = *source++;
    return to;
}

static void fault(void) { stop(12); }

__attribute__((noinline)) static void run(void) {
    FUNCTION(_run_pixels)(FUNCTION(_weights)(), arena, FUNCTION(_pixels)(arena), logits);
}

void reset(void) {
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: the FPU is on */
    __asm__ volatile("dsb\nisb");
#endif
    if (FUNCTION(_arena_bytes)() != sizeof arena) stop(13);
    move("pixels", 6, 1, READ, FUNCTION(_pixels)(arena), PIXELS);
    uint32_t here = 0;
    for (uint32_t *word = stack_end; word < &here - 16; word++) *word = PAINT;
    run();
    const uint32_t *deepest = stack_end;
    while (*deepest == PAINT) deepest++;
    const uint32_t used = (uint32_t)((uintptr_t)stack_top - (uintptr_t)deepest);
    move("logits", 6, 5, WRITE, logits, sizeof logits);
    move("stack", 5, 5, WRITE, &used, sizeof used);
    stop(0);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault,
};
