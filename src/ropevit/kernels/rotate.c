/* Rotation of a qkv projection on a CPU: forward in place, backward into the gradient of the projection.
 *
 * A call has B images of N tokens with A heads of D channels. Each pair of channels (2p, 2p+1) of q and k is rotated by
 * angle = sum over axes of position * frequency; v and the prefix tokens are unchanged. Cosines and sines of a token are
 * computed once, in float32, and used for all images that share its position. Sums over images have a fixed order, so
 * results do not depend on the number of threads.
 *
 * Built on first use by native.py; RotateArgs there has the same fields as Args.
 */
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
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
/* The same in memory, at any address. */
typedef floats floats_in_memory __attribute__((aligned(1), may_alias));
typedef halves halves_in_memory __attribute__((aligned(1), may_alias));

/* Strides count elements; the channels of a head are contiguous. */
typedef struct {
    int64_t images, tokens, heads, channels, axes, prefix;
    int64_t frequency_heads;  /* heads, or 1 where they share frequencies */
    int64_t position_images;  /* images, or 1 where they share positions */
    int64_t threads;
    const float *positions;   /* (position_images, tokens - prefix, axes) */
    const float *frequencies; /* (axes, frequency_heads, channels / 2) */
    void *part[3];            /* forward: q, k (rotated in place); backward: gradients of q, k, v */
    int64_t stride[3][3];     /* of each part: image, head, token */
    const void *rotated[2];   /* backward: q and k after the forward pass, or null */
    int64_t rotated_stride[2][3];
    void *qkv_gradient;       /* backward: gradient of the projection, (images, tokens, 3, heads, channels) */
    float *angle_gradient;    /* backward: (position_images, tokens - prefix, frequency_heads, channels / 2), or null */
} Args;

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

/* Compute the factors of one token: x'[i] = x[i] * own[i] + x[i ^ 1] * other[i]. Scratch holds 3 floats per pair. */
static void make_factors(const Args *args, int64_t image, int64_t token, float *own, float *other, float *scratch) {
    int64_t pairs = args->frequency_heads * args->channels / 2;
    const float *position = args->positions + (image * (args->tokens - args->prefix) + token - args->prefix) * args->axes;
    float *angle = scratch, *cosine = angle + pairs, *sine = cosine + pairs;
    int beyond = 0;
    for (int64_t i = 0; i < pairs; i++) angle[i] = position[0] * args->frequencies[i];
    for (int64_t axis = 1; axis < args->axes; axis++)
        for (int64_t i = 0; i < pairs; i++) angle[i] += position[axis] * args->frequencies[axis * pairs + i];
    for (int64_t i = 0; i < pairs; i++) beyond |= fabsf(angle[i]) > 8192.0f;
    if (!beyond)
        for (int64_t i = 0; i < pairs; i++) cos_sin(angle[i], &cosine[i], &sine[i]);
    else
        for (int64_t i = 0; i < pairs; i++) cosine[i] = cosf(angle[i]), sine[i] = sinf(angle[i]);
    for (int64_t i = 0; i < pairs; i++) {
        own[2 * i] = own[2 * i + 1] = cosine[i];
        other[2 * i] = -sine[i], other[2 * i + 1] = sine[i];
    }
}

/* Reorder the numbers of a vector; GCC has the builtin of clang from version 12 on. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SHUFFLE(x, ...) __builtin_shuffle(x, (words){__VA_ARGS__})
#endif

INLINE floats swap_pairs(floats x) {
#ifdef __AVX512F__
    return SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#else
    return SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6);
#endif
}

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

/* bfloat16 is the upper half of a float, rounded to nearest, ties to even; NaN stays NaN. */
INLINE floats load_bfloat16(const void *from, int64_t count) {
    halves x = {0};
    if (count >= LANES) x = *(const halves_in_memory *)from;
    else memcpy(&x, from, count * 2);
    return (floats)(__builtin_convertvector(x, words) << 16);
}

INLINE void store_bfloat16(void *to, floats x, int64_t count) {
    words bits = (words)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (words)(x != x);
    halves y = __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), halves);
    if (count >= LANES) *(halves_in_memory *)to = y;
    else memcpy(to, &y, count * 2);
}

/* How to load and store LANES numbers of a dtype, fewer at the end of a head. */
typedef floats (*Load)(const void *, int64_t);
typedef void (*Store)(void *, floats, int64_t);

/* Rotate one head: x'[i] = x[i] own[i] + x[i ^ 1] other[i]. */
INLINE void rotate_head(char *x, const float *own, const float *other, int64_t channels, Load load, Store store,
                      int64_t size) {
    int64_t i = 0;
    for (; i + LANES <= channels; i += LANES) {
        floats value = load(x + i * size, LANES);
        store(x + i * size, value * load_float(own + i, LANES) + swap_pairs(value) * load_float(other + i, LANES), LANES);
    }
    if (i < channels) {
        int64_t left = channels - i;
        floats value = load(x + i * size, left);
        store(x + i * size, value * load_float(own + i, left) + swap_pairs(value) * load_float(other + i, left), left);
    }
}

INLINE void forward_token(const Args *args, int64_t image, int64_t token, const float *own, const float *other, Load load,
                          Store store, int64_t size) {
    const int64_t channels = args->channels, heads = args->heads, step = args->frequency_heads == 1 ? 0 : channels;
    for (int part = 0; part < 2; part++) {
        const int64_t *stride = args->stride[part], next = stride[1] * size;
        char *x = (char *)args->part[part] + (image * stride[0] + token * stride[2]) * size;
        for (int64_t head = 0; head < heads; head++, x += next)
            rotate_head(x, own + head * step, other + head * step, channels, load, store, size);
    }
}

/* Rotate the gradient of one head back, from g into the gradient of the projection. For each pair (0, 1), with g the
 * gradient of the rotated q or k, y: d loss / d angle = sum over q and k of g1 y0 - g0 y1; sums holds g[i] y[i ^ 1]. */
INLINE void rotate_back(char *to, const char *g, const char *y, const float *own, const float *other, float *sums,
                      int64_t count, Load load, Store store, int64_t size) {
    floats value = load(g, count);
    store(to, value * load_float(own, count) - swap_pairs(value) * load_float(other, count), count);
    if (sums) store_float(sums, load_float(sums, count) + value * swap_pairs(load(y, count)), count);
    (void)size;
}

INLINE void backward_token(const Args *args, int64_t image, int64_t token, const float *own, const float *other,
                           float *sums, Load load, Store store, int64_t size) {
    const int64_t channels = args->channels, heads = args->heads, step = args->frequency_heads == 1 ? 0 : channels;
    char *to = (char *)args->qkv_gradient + (image * args->tokens + token) * 3 * heads * channels * size;
    for (int part = 0; part < 3; part++) {
        const int64_t *stride = args->stride[part], next = stride[1] * size;
        const char *g = (char *)args->part[part] + (image * stride[0] + token * stride[2]) * size;
        if (part == 2 || token < args->prefix) {
            if (stride[1] == channels) memcpy(to, g, heads * channels * size);
            else for (int64_t head = 0; head < heads; head++) memcpy(to + head * channels * size, g + head * next, channels * size);
            to += heads * channels * size;
            continue;
        }
        const int64_t *far = args->rotated_stride[part], after = far[1] * size;
        const char *y = (char *)args->rotated[part] + (image * far[0] + token * far[2]) * size;
        for (int64_t head = 0; head < heads; head++, g += next, y += after, to += channels * size) {
            const float *c = own + head * step, *s = other + head * step;
            float *sum = sums ? sums + head * step : NULL;
            int64_t i = 0;
            for (; i + LANES <= channels; i += LANES)
                rotate_back(to + i * size, g + i * size, y + i * size, c + i, s + i, sum ? sum + i : NULL, LANES, load, store, size);
            if (i < channels)
                rotate_back(to + i * size, g + i * size, y + i * size, c + i, s + i, sum ? sum + i : NULL, channels - i, load, store, size);
        }
    }
}

/* Loop over blocks of tokens, in parallel, and within a block over the images that share positions, so that memory is
 * accessed sequentially while the factors of the block stay in the cache. */
INLINE int run(const Args *args, int backward, Load load, Store store, int64_t size) {
    const int64_t pairs = args->frequency_heads * args->channels / 2, patches = args->tokens - args->prefix;
    const int64_t shared = args->position_images == 1 ? args->images : 1, first = backward ? 0 : args->prefix;
    const int64_t share = (args->tokens - first) / (4 * args->threads), block = share < 1 ? 1 : share > 16 ? 16 : share;
    int failed = 0;
#pragma omp parallel num_threads((int)args->threads) reduction(| : failed)
    {
        float *own = calloc(pairs * (6 * block + 3), sizeof(float)), *other = own + 2 * pairs * block;
        float *all_sums = other + 2 * pairs * block, *scratch = all_sums + 2 * pairs * block;
        failed = own == NULL;
#pragma omp for collapse(2) schedule(static)
        for (int64_t group = 0; group < args->images / shared; group++)
            for (int64_t start = first; start < args->tokens; start += block) {
                if (failed) continue;
                const int64_t end = start + block < args->tokens ? start + block : args->tokens;
                float *sums = args->angle_gradient ? all_sums : NULL;
                for (int64_t token = start; token < end; token++)
                    if (token >= args->prefix)
                        make_factors(args, group, token, own + 2 * pairs * (token - start), other + 2 * pairs * (token - start),
                                     scratch);
                if (sums) memset(sums, 0, 2 * pairs * block * sizeof(float));
                for (int64_t image = group * shared; image < (group + 1) * shared; image++)
                    for (int64_t token = start; token < end; token++) {
                        const int64_t at = 2 * pairs * (token - start);
                        if (backward)
                            backward_token(args, image, token, own + at, other + at, sums ? sums + at : NULL, load, store, size);
                        else forward_token(args, image, token, own + at, other + at, load, store, size);
                    }
                for (int64_t token = start < args->prefix ? args->prefix : start; sums && token < end; token++) {
                    const float *sum = sums + 2 * pairs * (token - start);
                    float *to = args->angle_gradient + (group * patches + token - args->prefix) * pairs;
                    for (int64_t i = 0; i < pairs; i++) to[i] = sum[2 * i + 1] - sum[2 * i];
                }
            }
        free(own);
    }
    return failed;
}

int forward_float32(const Args *args) { return run(args, 0, load_float, store_float, 4); }
int backward_float32(const Args *args) { return run(args, 1, load_float, store_float, 4); }
int forward_bfloat16(const Args *args) { return run(args, 0, load_bfloat16, store_bfloat16, 2); }
int backward_bfloat16(const Args *args) { return run(args, 1, load_bfloat16, store_bfloat16, 2); }

#ifdef __FLT16_MAX__
typedef _Float16 shorts __attribute__((vector_size(2 * LANES)));
typedef shorts shorts_in_memory __attribute__((aligned(1), may_alias));

INLINE floats load_float16(const void *from, int64_t count) {
    shorts x = {0};
    if (count >= LANES) x = *(const shorts_in_memory *)from;
    else memcpy(&x, from, count * 2);
    return __builtin_convertvector(x, floats);
}

INLINE void store_float16(void *to, floats x, int64_t count) {
    shorts y = __builtin_convertvector(x, shorts);
    if (count >= LANES) *(shorts_in_memory *)to = y;
    else memcpy(to, &y, count * 2);
}

int forward_float16(const Args *args) { return run(args, 0, load_float16, store_float16, 2); }
int backward_float16(const Args *args) { return run(args, 1, load_float16, store_float16, 2); }
#endif
