/* Rotation of a qkv projection on a CPU: forward in place, backward into the gradient of the projection.
 *
 * A call has B images of N tokens with A heads of D channels. Each pair of channels (2p, 2p+1) of q and k is rotated by
 * angle = sum over axes of position * frequency; v and the prefix tokens are unchanged. Cosines and sines of a token are
 * computed once, in float32, and used for all images that share its position. Sums over images have a fixed order, so
 * results do not depend on the number of threads.
 *
 * Built on first use by native.py, or into a wheel by hatch_build.py; RotateArgs in native.py has the fields of Args.
 */
#include "vectors.h"

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

/* How the factors of a token stand in memory: a cosine and a sine for each pair, or, ADJACENT, for each channel:
 * x'[i] = x[i] * own[i] + x[i ^ 1] * other[i]. */
enum { ADJACENT = 1, PAIRS = 2 };

/* Compute the factors of one token; scratch holds 3 floats per pair. */
INLINE void make_factors(const Args *args, int64_t image, int64_t token, float *own, float *other, float *scratch,
                         int form) {
    int64_t pairs = args->frequency_heads * args->channels / 2;
    const float *position = args->positions + (image * (args->tokens - args->prefix) + token - args->prefix) * args->axes;
    float *angle = scratch, *cosine = form == PAIRS ? own : angle + pairs, *sine = form == PAIRS ? other : angle + 2 * pairs;
    int beyond = 0;
    for (int64_t i = 0; i < pairs; i++) angle[i] = position[0] * args->frequencies[i];
    for (int64_t axis = 1; axis < args->axes; axis++)
        for (int64_t i = 0; i < pairs; i++) angle[i] += position[axis] * args->frequencies[axis * pairs + i];
    for (int64_t i = 0; i < pairs; i++) beyond |= fabsf(angle[i]) > 8192.0f;
    if (!beyond)
        for (int64_t i = 0; i < pairs; i++) cos_sin(angle[i], &cosine[i], &sine[i]);
    else
        for (int64_t i = 0; i < pairs; i++) cosine[i] = cosf(angle[i]), sine[i] = sinf(angle[i]);
    for (int64_t i = 0; form == ADJACENT && i < pairs; i++) {
        own[2 * i] = own[2 * i + 1] = cosine[i];
        other[2 * i] = -sine[i], other[2 * i + 1] = sine[i];
    }
}

INLINE floats swap_pairs(floats x) {
#ifdef __AVX512F__
    return SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#else
    return SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6);
#endif
}

#ifdef __FLT16_MAX__
typedef _Float16 halves __attribute__((vector_size(2 * LANES)));
typedef halves halves_in_memory __attribute__((aligned(1), may_alias));

INLINE floats load_float16(const void *from, int64_t count) {
    halves x = {0};
    if (count >= LANES) x = *(const halves_in_memory *)from;
    else memcpy(&x, from, count * 2);
    return __builtin_convertvector(x, floats);
}

INLINE void store_float16(void *to, floats x, int64_t count) {
    halves y = __builtin_convertvector(x, halves);
    if (count >= LANES) *(halves_in_memory *)to = y;
    else memcpy(to, &y, count * 2);
}
#endif

/* How to load and store LANES numbers of a dtype, fewer at the end of a head. */
typedef floats (*Load)(const void *, int64_t);
typedef void (*Store)(void *, floats, int64_t);

/* Rotate up to LANES channels of q and k. */
INLINE void forward_vector(char *q, char *k, const float *own, const float *other, int64_t count, Load load, Store store) {
    floats c = load_float(own, count), s = load_float(other, count), x = load(q, count), y = load(k, count);
    store(q, x * c + swap_pairs(x) * s, count);
    store(k, y * c + swap_pairs(y) * s, count);
}

/* Rotate the gradient g of up to LANES channels of q or k back. For each pair (0, 1), with y the rotated q or k:
 * d loss / d angle = sum over q and k of g1 y0 - g0 y1; sums holds g[i] y[i ^ 1]. */
INLINE void backward_vector(char *to, const char *g, const char *y, const float *own, const float *other, float *sums,
                            int64_t count, Load load, Store store) {
    floats x = load(g, count);
    store(to, x * load_float(own, count) - swap_pairs(x) * load_float(other, count), count);
    if (sums) store_float(sums, load_float(sums, count) + x * swap_pairs(load(y, count)), count);
}

/* forward_vector and backward_vector, for up to LANES pairs in bfloat16. */
INLINE void forward_pairs(char *q, char *k, const float *cosine, const float *sine, int64_t count) {
    floats c = load_float(cosine, count / 2), s = load_float(sine, count / 2);
    store_pairs(q, rotate(load_pairs(q, count), c, s), count);
    store_pairs(k, rotate(load_pairs(k, count), c, s), count);
}

INLINE void backward_pairs(char *to, const char *g, const char *y, const float *cosine, const float *sine, float *sums,
                           int64_t count) {
    Pairs x = load_pairs(g, count);
    store_pairs(to, rotate(x, load_float(cosine, count / 2), -load_float(sine, count / 2)), count);
    if (!sums) return;
    Pairs z = load_pairs(y, count);
    store_float(sums, load_float(sums, count / 2) + x.second * z.first - x.first * z.second, count / 2);
}

/* What differs between dtypes: form of the factors, bytes of a number, and how a vector of channels is rotated. */
typedef struct {
    int form, size;
    void (*forward)(char *, char *, const float *, const float *, int64_t);
    void (*backward)(char *, const char *, const char *, const float *, const float *, float *, int64_t);
} Dtype;

INLINE char *at(const void *part, const int64_t *stride, int64_t image, int64_t token, int size) {
    return (char *)part + (image * stride[0] + token * stride[2]) * size;
}

INLINE void forward_token(const Args *args, int64_t image, int64_t token, const float *own, const float *other,
                          Dtype dtype) {
    const int64_t *to_q = args->stride[0], *to_k = args->stride[1], size = dtype.size, vector = LANES * dtype.form;
    const int together = to_q[1] == args->channels && to_k[1] == args->channels; /* heads follow each other */
    const int64_t merge = args->frequency_heads > 1 && together ? args->heads : 1;
    const int64_t channels = args->channels * merge, step = args->frequency_heads == 1 ? 0 : channels / dtype.form;
    char *q = at(args->part[0], to_q, image, token, size), *k = at(args->part[1], to_k, image, token, size);
    for (int64_t head = 0; head < args->heads / merge; head++, own += step, other += step) {
        int64_t i = 0;
        for (; i + vector <= channels; i += vector)
            dtype.forward(q + i * size, k + i * size, own + i / dtype.form, other + i / dtype.form, vector);
        if (i < channels)
            dtype.forward(q + i * size, k + i * size, own + i / dtype.form, other + i / dtype.form, channels - i);
        q += to_q[1] * size, k += to_k[1] * size;
    }
}

INLINE void backward_token(const Args *args, int64_t image, int64_t token, const float *own, const float *other,
                           float *sums, Dtype dtype) {
    const int64_t channels = args->channels, heads = args->heads, size = dtype.size, vector = LANES * dtype.form;
    const int64_t step = args->frequency_heads == 1 ? 0 : channels / dtype.form;
    char *to = (char *)args->qkv_gradient + (image * args->tokens + token) * 3 * heads * channels * size;
    for (int part = 0; part < 3; part++) {
        const int64_t *stride = args->stride[part], *far = args->rotated_stride[part], next = stride[1] * size;
        const char *g = at(args->part[part], stride, image, token, size);
        if (part == 2 || token < args->prefix) {
            const int64_t merged = stride[1] == channels ? heads : 1; /* heads that follow each other */
            for (int64_t head = 0; head < heads; head += merged, to += merged * channels * size)
                memcpy(to, g + head * next, merged * channels * size);
            continue;
        }
        const char *y = sums ? at(args->rotated[part], far, image, token, size) : g;
        for (int64_t head = 0; head < heads; head++, g += next, y += sums ? far[1] * size : next, to += channels * size) {
            const float *c = own + head * step, *s = other + head * step;
            float *sum = sums ? sums + head * step : NULL;
            int64_t i = 0;
            for (; i + vector <= channels; i += vector)
                dtype.backward(to + i * size, g + i * size, y + i * size, c + i / dtype.form, s + i / dtype.form,
                               sum ? sum + i / dtype.form : NULL, vector);
            if (i < channels)
                dtype.backward(to + i * size, g + i * size, y + i * size, c + i / dtype.form, s + i / dtype.form,
                               sum ? sum + i / dtype.form : NULL, channels - i);
        }
    }
}

/* Tokens between the one that is rotated and the one that is fetched into the cache meanwhile. Rows of a token are shorter
 * than a page, with v between them, so the processor foresees few of them; a copy of the same rows waits as long. */
enum { AHEAD = 4 };

/* Fetch a row of a token, head by head, into the cache. */
INLINE void fetch(const Args *args, const void *part, const int64_t *stride, int64_t image, int64_t token, int size) {
    const char *row = at(part, stride, image, token, size);
    for (int64_t head = 0; head < args->heads; head++, row += stride[1] * size)
        for (int64_t byte = 0; byte < args->channels * size; byte += 64) __builtin_prefetch(row + byte);
}

/* Fetch what a token is rotated from. */
INLINE void fetch_token(const Args *args, int64_t image, int64_t token, int backward, int size) {
    for (int part = 0; part < (backward ? 3 : 2); part++)
        fetch(args, args->part[part], args->stride[part], image, token, size);
    for (int part = 0; part < 2 && args->angle_gradient; part++)
        fetch(args, args->rotated[part], args->rotated_stride[part], image, token, size);
}

/* Tokens from start to end of the images of a group, which share positions. Memory holds 6 floats per pair and token for
 * factors and sums, and 3 per pair. */
typedef struct {
    int64_t group, start, end, tokens;
    float *memory;
} Block;

/* Rotate a block: factors once, then image by image, so that memory is accessed sequentially while they stay in the
 * cache. */
INLINE void rotate_block(const Args *args, const Block *block, int backward, Dtype dtype) {
    const int64_t pairs = args->frequency_heads * args->channels / 2, row = 2 * pairs / dtype.form, start = block->start;
    const int64_t images = args->position_images == 1 ? args->images : 1, patches = args->tokens - args->prefix;
    const int64_t patch = start < args->prefix ? args->prefix : start;
    float *own = block->memory, *other = own + row * block->tokens, *all_sums = other + row * block->tokens;
    float *sums = args->angle_gradient ? all_sums : NULL, *scratch = all_sums + row * block->tokens;
    for (int64_t token = patch; token < block->end; token++) {
        const int64_t first = row * (token - start);
        make_factors(args, block->group, token, own + first, other + first, scratch, dtype.form);
    }
    if (sums) memset(sums, 0, row * block->tokens * sizeof(float));
    for (int64_t image = block->group * images; image < (block->group + 1) * images; image++)
        for (int64_t token = start; token < block->end; token++) {
            const int64_t first = row * (token - start), later = token + AHEAD;
            if (later < block->end) fetch_token(args, image, later, backward, dtype.size);
            else if (image + 1 < (block->group + 1) * images && later - (block->end - start) < block->end)
                fetch_token(args, image + 1, later - (block->end - start), backward, dtype.size);
            if (backward) backward_token(args, image, token, own + first, other + first, sums ? sums + first : NULL, dtype);
            else forward_token(args, image, token, own + first, other + first, dtype);
        }
    for (int64_t token = patch; sums && token < block->end; token++) {
        const float *sum = sums + row * (token - start);
        float *to = args->angle_gradient + (block->group * patches + token - args->prefix) * pairs;
        for (int64_t i = 0; i < pairs; i++) to[i] = dtype.form == PAIRS ? sum[i] : sum[2 * i + 1] - sum[2 * i];
    }
}

/* Loop over blocks of tokens, in parallel. GCC makes a function of a parallel region before it inlines what it calls, so
 * what rotates a block is a function for each dtype: in it everything is inlined, and no vector costs a call. */
static int run(const Args *args, int64_t first, void (*rotate_one_block)(const Args *, const Block *)) {
    const int64_t groups = args->position_images == 1 ? 1 : args->images, pairs = args->frequency_heads * args->channels / 2;
    const int64_t share = (args->tokens - first) / (4 * args->threads), tokens = share < 1 ? 1 : share > 16 ? 16 : share;
    int failed = 0;
#pragma omp parallel num_threads((int)args->threads)
    {
        float *memory = calloc(pairs * (6 * tokens + 3), sizeof(float));
        if (memory == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier /* if one thread has no memory, none changes a number */
#pragma omp for collapse(2) schedule(static)
        for (int64_t group = 0; group < groups; group++)
            for (int64_t start = first; start < args->tokens; start += tokens) {
                const int64_t end = start + tokens < args->tokens ? start + tokens : args->tokens;
                const Block block = {group, start, end, tokens, memory};
                if (!failed) rotate_one_block(args, &block);
            }
        free(memory);
    }
    return failed;
}

#define FUNCTIONS(dtype, ...)                                                                                             \
    static void forward_block_##dtype(const Args *a, const Block *b) { rotate_block(a, b, 0, (Dtype){__VA_ARGS__}); }     \
    static void backward_block_##dtype(const Args *a, const Block *b) { rotate_block(a, b, 1, (Dtype){__VA_ARGS__}); }    \
    int forward_##dtype(const Args *args) { return run(args, args->prefix, forward_block_##dtype); }                      \
    int backward_##dtype(const Args *args) { return run(args, 0, backward_block_##dtype); }

#define VECTORS(dtype, load, store)                                                                                       \
    INLINE void forward_vector_##dtype(char *q, char *k, const float *own, const float *other, int64_t count) {           \
        forward_vector(q, k, own, other, count, load, store);                                                             \
    }                                                                                                                     \
    INLINE void backward_vector_##dtype(char *to, const char *g, const char *y, const float *own, const float *other,     \
                                        float *sums, int64_t count) {                                                     \
        backward_vector(to, g, y, own, other, sums, count, load, store);                                                  \
    }

VECTORS(float32, load_float, store_float)
FUNCTIONS(float32, ADJACENT, 4, forward_vector_float32, backward_vector_float32)
FUNCTIONS(bfloat16, PAIRS, 2, forward_pairs, backward_pairs)
#ifdef __FLT16_MAX__
VECTORS(float16, load_float16, store_float16)
FUNCTIONS(float16, ADJACENT, 2, forward_vector_float16, backward_vector_float16)
#endif
