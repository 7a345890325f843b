/* Vectors of floats, as long as a register of the processor, and what the kernels of this folder do with them. */
#pragma once
#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Numbers in a vector: as many floats as a register of the processor holds. */
#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
/* The same in memory, at any address. */
typedef floats floats_in_memory __attribute__((aligned(1), may_alias));
typedef words words_in_memory __attribute__((aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* Cosine and sine, to 1e-7 for |angle| up to 8192: the angle is reduced to [-pi/4, pi/4] in three steps (Cody and Waite),
 * then minimax polynomials, with the coefficients of the Cephes library's single precision. */
INLINE void cos_sin(float angle, float *cosine, float *sine) {
    float turns = (angle * 0.63661977236758134f + 12582912.0f) - 12582912.0f;
    float r = ((angle - turns * 1.5703125f) - turns * 4.837512969970703125e-4f) - turns * 7.54978995489188216e-8f;
    float z = r * r;
    float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    float c = 1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    int32_t quadrant = (int32_t)turns;
    float first = quadrant & 1 ? s : c, second = quadrant & 1 ? c : s;
    *cosine = (quadrant + 1) & 2 ? -first : first;
    *sine = quadrant & 2 ? -second : second;
}

/* Take numbers of two vectors, numbered through; GCC has the builtin of clang from version 12 on. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE2(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE2(x, y, ...) __builtin_shuffle(x, y, (words){__VA_ARGS__})
#endif
#define SHUFFLE(x, ...) SHUFFLE2(x, x, __VA_ARGS__)

INLINE floats load_float(const void *from, int64_t count) {
    if (count >= LANES) return *(const floats_in_memory *)from;
    floats x = {0};
    memcpy(&x, from, count * 4);
    return x;
}

INLINE void store_float(void *to, floats x, int64_t count) {
    if (count >= LANES) *(floats_in_memory *)to = x;
    else memcpy(to, &x, count * 4);
}

/* bfloat16 is the upper half of a float, so a word holds a pair: no shuffle is needed. */
typedef struct {
    floats first, second;
} Pairs;

INLINE Pairs load_pairs(const void *from, int64_t count) {
    words x = {0};
    if (count >= 2 * LANES) x = *(const words_in_memory *)from;
    else memcpy(&x, from, count * 2);
    return (Pairs){(floats)(x << 16), (floats)(x & 0xffff0000)};
}

#ifdef __AVX512BF16__
/* The processor rounds to nearest, ties to even, and makes 0 of numbers below 2^-126. */
INLINE words join_pairs(Pairs x) {
    const words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    __m512i halves_of_pairs = (__m512i)_mm512_cvtne2ps_pbh((__m512)x.second, (__m512)x.first);
    return (words)_mm512_permutexvar_epi16((__m512i)(lane * 0x10001 + 0x100000), halves_of_pairs);
}
#else
/* Round to nearest, ties to even, in the upper half of a word; NaN stays NaN. */
INLINE words round_bfloat16(floats x) {
    words bits = (words)x;
    return (bits + 0x7fff + ((bits >> 16) & 1)) | ((words)(x != x) & 0x7fc00000);
}

INLINE words join_pairs(Pairs x) {
    return (round_bfloat16(x.first) >> 16) | (round_bfloat16(x.second) & 0xffff0000);
}
#endif

INLINE void store_pairs(void *to, Pairs x, int64_t count) {
    words y = join_pairs(x);
    if (count >= 2 * LANES) *(words_in_memory *)to = y;
    else memcpy(to, &y, count * 2);
}

INLINE Pairs rotate(Pairs x, floats c, floats s) {
    return (Pairs){x.first * c - x.second * s, x.second * c + x.first * s};
}
