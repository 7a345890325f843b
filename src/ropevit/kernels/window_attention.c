/* Attention inside the windows of a map on a CPU, from its qkv projection: one pass over memory for each direction.
 *
 * A map has h x w tokens, padded at the bottom and right to whole windows and rolled up and left by the shift. For one
 * window and head at a time, queries, keys and values are copied into buffers that fit into the cache, q and k rotated on
 * the way by their positions in the window. All logits of a block of queries are in the cache at once: softmax is exact
 * in one step, and recomputed in the backward pass, so nothing of it is saved. Numbers are float32 in between; logits are
 * in units of ln 2, so that the softmax needs powers of two alone. Gradients of frequencies and biases are summed over
 * chunks of windows that follow from the shapes alone, then over chunks in order: results do not depend on the number of
 * threads.
 *
 * Built together with rotate.c; WindowArgs in cpu_window_attention.py has the fields of Args.
 */
#include "vectors.h"

typedef struct {
    int64_t images, h, w, heads, channels, window, shift_y, shift_x, threads;
    int64_t frequency_heads;    /* heads, or 1 where they share frequencies */
    int64_t bias_stride[3];     /* elements */
    const void *qkv;            /* (images, h, w, 3, heads, channels) */
    const float *frequencies;   /* (2, frequency_heads, channels / 2), for x and y, or null */
    const float *bias;          /* (heads, n, n), or null */
    void *out;                  /* forward: (images, h, w, heads, channels) */
    const void *gradient;       /* backward: that of out */
    void *qkv_gradient;         /* backward: that of qkv */
    float *frequency_gradient;  /* backward: (heads, 2, channels / 2), or null */
    float *bias_gradient;       /* backward: (heads, n, n), or null */
} Args;

/* Matrix products are computed in blocks of ROWS x WIDTH vectors, whose sums are in registers. */
#ifdef __AVX512F__
enum { ROWS = 5, WIDTH = 4 };
#else
enum { ROWS = 5, WIDTH = 2 };
#endif
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Regions of a window whose tokens do not see each other: 2 x 2 that the shift brings together, and padding. */
enum { PADDING = 4, REGIONS = 5 };

/* Upper bound of the sums of the gradient of the bias, in numbers, unless those of one chunk are more. */
enum { MOST_SUMS = 1 << 22 };

static const float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;

INLINE int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

INLINE floats load(const float *from) { return *(const floats_in_memory *)from; }

INLINE void store(float *to, floats x) { *(floats_in_memory *)to = x; }

#ifdef __AVX512F__
#define EVENS 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODDS 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LOWS 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGHS 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
/* Reduce a vector: every number becomes the sum, or the largest, of all. */
#define REDUCE(join, x)                                                                                                   \
    x = join(x, SHUFFLE(x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));                                        \
    x = join(x, SHUFFLE(x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));                                        \
    x = join(x, SHUFFLE(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));                                        \
    x = join(x, SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))
#else
#define EVENS 0, 2, 4, 6, 8, 10, 12, 14
#define ODDS 1, 3, 5, 7, 9, 11, 13, 15
#define LOWS 0, 8, 1, 9, 2, 10, 3, 11
#define HIGHS 4, 12, 5, 13, 6, 14, 7, 15
#define REDUCE(join, x)                                                                                                   \
    x = join(x, SHUFFLE(x, 4, 5, 6, 7, 0, 1, 2, 3));                                                                      \
    x = join(x, SHUFFLE(x, 2, 3, 0, 1, 6, 7, 4, 5));                                                                      \
    x = join(x, SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6))
#endif

INLINE Pairs load_pairs_float32(const void *from, int64_t count) {
    floats x = load_float(from, count), y = {0};
    if (count > LANES) y = load_float((const char *)from + 4 * LANES, count - LANES);
    return (Pairs){SHUFFLE2(x, y, EVENS), SHUFFLE2(x, y, ODDS)};
}

INLINE void store_pairs_float32(void *to, Pairs x, int64_t count) {
    store_float(to, SHUFFLE2(x.first, x.second, LOWS), count);
    if (count > LANES) store_float((char *)to + 4 * LANES, SHUFFLE2(x.first, x.second, HIGHS), count - LANES);
}

/* Bytes of a number, and how up to 2 * LANES channels are loaded and stored. */
typedef struct {
    int64_t size;
    Pairs (*load)(const void *, int64_t);
    void (*store)(void *, Pairs, int64_t);
} Dtype;

INLINE floats add(floats x, floats y) { return x + y; }

INLINE floats greater(floats x, floats y) {
#if defined(__AVX512F__)
    return (floats)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX2__)
    return (floats)_mm256_max_ps((__m256)x, (__m256)y);
#else
    words first = (words)(x > y);
    return (floats)((first & (words)x) | (~first & (words)y));
#endif
}

INLINE float sum_of(floats x) {
    REDUCE(add, x);
    return x[0];
}

/* 2 to the x, at most 0, to 1e-7; 0 below -126: a polynomial of degree 6, fitted to the relative error in [-1/2, 1/2]. */
INLINE floats power_of_two(floats x) {
    floats moved = x + 12582912.0f, r = x - (moved - 12582912.0f);
    floats y = r * 1.5345811568e-4f + 1.33999312152e-3f;
    y = y * r + 9.61848895871e-3f, y = y * r + 5.55032877698e-2f, y = y * r + 2.40226468906e-1f;
    y = y * r + 6.93147205737e-1f, y = y * r + 1.0f;
    y *= (floats)(((words)moved << 23) + 0x3f800000);
    return (floats)((words)y & ~(words)(x < -126.0f));
}

/* c = a b for ROWS rows and a number of vectors that the compiler knows; a[row, step] is at row * a_row + step * a_step. */
INLINE void multiply_block(float *c, int64_t c_row, const float *a, int64_t a_row, int64_t a_step, const float *b,
                           int64_t b_row, int64_t steps, const int vectors) {
    floats sum[ROWS][WIDTH];
    UNROLL for (int row = 0; row < ROWS; row++)
        UNROLL for (int i = 0; i < vectors; i++) sum[row][i] = (floats){0};
    for (int64_t step = 0; step < steps; step++, a += a_step, b += b_row) {
        floats x[WIDTH];
        UNROLL for (int i = 0; i < vectors; i++) x[i] = load(b + i * LANES);
        UNROLL for (int row = 0; row < ROWS; row++) {
            const float y = a[row * a_row];
            UNROLL for (int i = 0; i < vectors; i++) sum[row][i] += y * x[i];
        }
    }
    UNROLL for (int row = 0; row < ROWS; row++)
        UNROLL for (int i = 0; i < vectors; i++) store(c + row * c_row + i * LANES, sum[row][i]);
}

/* The same for any number of columns, a multiple of LANES. */
static void multiply(float *c, int64_t c_row, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row,
                     int64_t steps, int64_t columns) {
    for (; columns >= WIDTH * LANES; columns -= WIDTH * LANES, c += WIDTH * LANES, b += WIDTH * LANES)
        multiply_block(c, c_row, a, a_row, a_step, b, b_row, steps, WIDTH);
#if __AVX512F__
    if (columns == 3 * LANES) multiply_block(c, c_row, a, a_row, a_step, b, b_row, steps, 3);
    if (columns == 2 * LANES) multiply_block(c, c_row, a, a_row, a_step, b, b_row, steps, 2);
#endif
    if (columns == LANES) multiply_block(c, c_row, a, a_row, a_step, b, b_row, steps, 1);
}

/* Transpose LANES rows: interleaving the first and the second half log2(LANES) times. */
INLINE void transpose_block(float *to, int64_t to_row, const float *from, int64_t from_row) {
    floats x[LANES], y[LANES];
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load(from + i * from_row);
    UNROLL for (int length = 1; length < LANES; length *= 2) {
        UNROLL for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = SHUFFLE2(x[i], x[i + LANES / 2], LOWS);
            y[2 * i + 1] = SHUFFLE2(x[i], x[i + LANES / 2], HIGHS);
        }
        UNROLL for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
    UNROLL for (int i = 0; i < LANES; i++) store(to + i * to_row, x[i]);
}

/* Sizes in floats, and what all windows share. */
typedef struct {
    const Args *args;
    int64_t tokens, rows, keys; /* of a window; rounded up to ROWS; rounded up to LANES */
    int64_t columns, width;     /* channels rounded up to LANES; with what a partial vector writes after them */
    int64_t pairs;              /* channels / 2 rounded up to LANES */
    int64_t count, chunk;       /* windows of all images; those whose gradients are summed together */
    float *factors;             /* (frequency_heads, tokens, 2, pairs): cosines and sines; null without rotation */
    float *bias;                /* (heads, tokens, keys), in units of ln 2, or null */
    float *sums;                /* backward: for each chunk and head, tokens * tokens and 2 * pairs */
} Plan;

/* Where the tokens of a window are. */
typedef struct {
    int64_t window;               /* its index among the windows of all images */
    int64_t *place;               /* index of each token among the tokens of all images; -1 for padding */
    int64_t *region;
    float *mask;                  /* (REGIONS, keys): 0 for keys that a region sees, else minus infinity */
} Places;

/* A head of a window. */
typedef struct {
    const Places *places;
    int64_t head;
} Unit;

/* Buffers of a thread. A row holds the channels of a token: in each block of up to 2 * LANES the first of all pairs, then
 * the second. The order is no matter to products of queries and keys. */
typedef struct {
    float *q, *k, *v, *g;         /* (rows or keys, width) */
    float *k_turned, *v_turned;   /* (columns, keys) */
    float *weights, *slopes;      /* forward: (ROWS, keys); backward: (rows, keys) */
    float *dq, *dk, *dv;          /* forward: dq has ROWS rows, the output */
    float *bias_sum;              /* (tokens, keys) */
    float *frequency_sum;         /* (2, pairs) */
    Places places[2];             /* of the window at hand and the next one */
} Buffers;

/* Find the tokens of a window in the map, and the mask of each region. */
static void locate(const Plan *plan, Places *at, int64_t index) {
    const Args *args = plan->args;
    const int64_t window = args->window, h = args->h, w = args->w;
    const int64_t across = (w + window - 1) / window, down = (h + window - 1) / window, tile = index % (across * down);
    const int64_t top = tile / across * window + args->shift_y, left = tile % across * window + args->shift_x;
    const int64_t first = index / (across * down) * h * w;
    int64_t several = 0;
    at->window = index;
    for (int64_t i = 0; i < window; i++) {
        const int64_t past_y = top + i >= down * window, y = top + i - past_y * down * window;
        for (int64_t j = 0; j < window; j++) {
            const int64_t past_x = left + j >= across * window, x = left + j - past_x * across * window;
            const int64_t real = y < h && x < w, token = i * window + j;
            at->place[token] = real ? first + y * w + x : -1;
            at->region[token] = real ? 2 * past_y + past_x : PADDING;
            several |= at->region[token] ^ at->region[0];
        }
    }
    for (int64_t region = 0; region < REGIONS; region++) {
        if (!several) region = at->region[0];
        float *mask = at->mask + region * plan->keys;
        for (int64_t key = 0; key < plan->tokens; key++)
            mask[key] = at->region[key] == region || region == PADDING ? 0.0f : -INFINITY;
        if (!several) return;
    }
}

/* Return a head of a window, which is located unless it was before, while another one stays located. */
INLINE Unit find_unit(const Plan *plan, Buffers *at, int64_t window, int64_t head, const Places *kept) {
    Places *places = &at->places[at->places[1].window == window || kept == at->places];
    if (at->places[0].window == window) places = at->places;
    if (places->window != window) locate(plan, places, window);
    return (Unit){places, head};
}

/* Fetch what a token of the next head or window needs into the cache. */
INLINE void prefetch(const Plan *plan, Unit next, int64_t token, int64_t size, int backward) {
    const Args *args = plan->args;
    const int64_t place = next.places->place[token], row = args->channels * size, part = args->heads * row;
    if (place < 0) return;
    const char *from = (const char *)args->qkv + place * 3 * part + next.head * row;
    const char *gradient = (const char *)args->gradient + place * part + next.head * row;
    for (int64_t i = 0; i < row; i += 64) {
        for (int j = 0; j < 3; j++) __builtin_prefetch(from + j * part + i, 0, 2);
        if (backward) __builtin_prefetch(gradient + i, 0, 2);
    }
}

/* Copy a row of a head, rotated by factors unless they are null, and scaled. */
INLINE void load_row(float *to, const char *from, const float *factors, float scale, const Plan *plan, Dtype dtype) {
    const int64_t channels = plan->args->channels;
    for (int64_t i = 0; i < channels; i += 2 * LANES) {
        const int64_t count = channels - i < 2 * LANES ? channels - i : 2 * LANES;
        Pairs x = dtype.load(from + i * dtype.size, count);
        if (factors) x = rotate(x, load(factors + i / 2), load(factors + plan->pairs + i / 2));
        store(to + i, x.first * scale);
        store(to + i + count / 2, x.second * scale);
    }
}

/* The inverse of load_row. */
INLINE void store_row(char *to, const float *from, const float *factors, float scale, const Plan *plan, Dtype dtype) {
    const int64_t channels = plan->args->channels;
    for (int64_t i = 0; i < channels; i += 2 * LANES) {
        const int64_t count = channels - i < 2 * LANES ? channels - i : 2 * LANES;
        Pairs x = {load(from + i) * scale, load(from + i + count / 2) * scale};
        if (factors) x = rotate(x, load(factors + i / 2), -load(factors + plan->pairs + i / 2));
        dtype.store(to + i * dtype.size, x, count);
    }
}

/* Cosines and sines of a token, or null. */
INLINE const float *factors_of(const Plan *plan, int64_t head, int64_t token) {
    if (!plan->factors) return NULL;
    return plan->factors + ((plan->args->frequency_heads > 1 ? head : 0) * plan->tokens + token) * 2 * plan->pairs;
}

/* Copy queries, keys and values of a window and head, and transpose the keys. */
INLINE void gather(const Plan *plan, const Buffers *at, Unit unit, Dtype dtype) {
    const Args *args = plan->args;
    const int64_t width = plan->width, part = args->heads * args->channels * dtype.size;
    const float scale = LOG2_E / sqrtf((float)args->channels);
    for (int64_t token = 0; token < plan->tokens; token++) {
        const int64_t place = unit.places->place[token];
        float *q = at->q + token * width, *k = at->k + token * width, *v = at->v + token * width;
        if (place < 0) {
            memset(q, 0, width * sizeof(float)), memset(k, 0, width * sizeof(float)), memset(v, 0, width * sizeof(float));
            continue;
        }
        const float *factors = factors_of(plan, unit.head, token);
        const char *from = (const char *)args->qkv + place * 3 * part + unit.head * args->channels * dtype.size;
        load_row(q, from, factors, scale, plan, dtype);
        load_row(k, from + part, factors, 1.0f, plan, dtype);
        load_row(v, from + 2 * part, NULL, 1.0f, plan, dtype);
    }
}

static void transpose(float *to, const float *from, const Plan *plan) {
    for (int64_t key = 0; key < plan->keys; key += LANES)
        for (int64_t i = 0; i < plan->columns; i += LANES)
            transpose_block(to + i * plan->keys + key, plan->keys, from + key * plan->width + i, plan->width);
}

/* Replace logits of a query by exp(logit - largest), and return the inverse of their sum. */
INLINE float soften(float *logits, const float *bias, const float *mask, int64_t keys) {
    floats most = {0}, sum = {0};
    most -= INFINITY;
    for (int64_t i = 0; i < keys; i += LANES) {
        floats x = load(logits + i) + load(mask + i);
        if (bias) x += load(bias + i);
        store(logits + i, x);
        most = greater(most, x);
    }
    REDUCE(greater, most);
    for (int64_t i = 0; i < keys; i += LANES) {
        const floats x = power_of_two(load(logits + i) - most);
        store(logits + i, x);
        sum += x;
    }
    return 1.0f / sum_of(sum);
}

INLINE float soften_query(const Plan *plan, float *logits, Unit unit, int64_t token) {
    const float *mask = unit.places->mask + unit.places->region[token] * plan->keys;
    if (!plan->bias) return soften(logits, NULL, mask, plan->keys);
    return soften(logits, plan->bias + (unit.head * plan->tokens + token) * plan->keys, mask, plan->keys);
}

/* Compute the output of a window and head, while what the next one needs is fetched. */
INLINE void forward_unit(const Plan *plan, const Buffers *at, Unit unit, Unit next, Dtype dtype) {
    const Args *args = plan->args;
    const int64_t keys = plan->keys, width = plan->width, size = args->channels * dtype.size;
    gather(plan, at, unit, dtype);
    transpose(at->k_turned, at->k, plan);
    for (int64_t first = 0; first < plan->tokens; first += ROWS) {
        float inverse[ROWS];
        const int64_t rows = plan->tokens - first < ROWS ? plan->tokens - first : ROWS;
        for (int64_t i = 0; i < rows; i++) prefetch(plan, next, first + i, dtype.size, 0);
        multiply(at->weights, keys, at->q + first * width, width, 1, at->k_turned, keys, args->channels, keys);
        for (int64_t i = 0; i < rows; i++) inverse[i] = soften_query(plan, at->weights + i * keys, unit, first + i);
        multiply(at->dq, width, at->weights, keys, 1, at->v, width, plan->tokens, plan->columns);
        for (int64_t i = 0; i < rows; i++) {
            const int64_t place = unit.places->place[first + i];
            char *to = (char *)args->out + (place * args->heads + unit.head) * size;
            if (place >= 0) store_row(to, at->dq + i * width, NULL, inverse[i], plan, dtype);
        }
    }
}

/* Turn gradients of the weights of a query into those of its logits; all its weights are here, so the output is not
 * needed. */
INLINE void differentiate_softmax(float *slopes, const float *weights, float *bias_sum, int64_t keys) {
    floats sum = {0};
    for (int64_t i = 0; i < keys; i += LANES) sum += load(slopes + i) * load(weights + i);
    const float mean = sum_of(sum);
    for (int64_t i = 0; i < keys; i += LANES) {
        const floats x = (load(slopes + i) - mean) * load(weights + i);
        store(slopes + i, x);
        if (bias_sum) store(bias_sum + i, load(bias_sum + i) + x);
    }
}

/* Add the gradients of a token's angles, times x and y, with the rotated q or k and its gradient:
 * d loss / d angle = g1 y0 - g0 y1. */
INLINE void add_slopes(float *sum, const float *g, const float *y, float scale, int64_t token, const Plan *plan) {
    const int64_t channels = plan->args->channels, window = plan->args->window;
    for (int64_t i = 0; i < channels; i += 2 * LANES) {
        const int64_t half = (channels - i < 2 * LANES ? channels - i : 2 * LANES) / 2;
        const floats slope = (load(g + i + half) * load(y + i) - load(g + i) * load(y + i + half)) * scale;
        store(sum + i / 2, load(sum + i / 2) + slope * (float)(token % window));
        store(sum + plan->pairs + i / 2, load(sum + plan->pairs + i / 2) + slope * (float)(token / window));
    }
}

/* Store the gradients of a window and head, those of queries and keys rotated back. */
INLINE void scatter(const Plan *plan, const Buffers *at, Unit unit, Dtype dtype) {
    const Args *args = plan->args;
    const int64_t width = plan->width, part = args->heads * args->channels * dtype.size;
    const float scale = 1.0f / sqrtf((float)args->channels);
    for (int64_t token = 0; token < plan->tokens; token++) {
        const int64_t place = unit.places->place[token];
        if (place < 0) continue;
        const float *factors = factors_of(plan, unit.head, token);
        const float *dq = at->dq + token * width, *dk = at->dk + token * width;
        char *to = (char *)args->qkv_gradient + place * 3 * part + unit.head * args->channels * dtype.size;
        store_row(to, dq, factors, scale, plan, dtype);
        store_row(to + part, dk, factors, LN_2, plan, dtype); /* the buffer of q has the scale, in units of ln 2 */
        store_row(to + 2 * part, at->dv + token * width, NULL, 1.0f, plan, dtype);
        if (!args->frequency_gradient) continue;
        add_slopes(at->frequency_sum, dq, at->q + token * width, LN_2, token, plan);
        add_slopes(at->frequency_sum, dk, at->k + token * width, LN_2, token, plan);
    }
}

/* Compute the gradients of a window and head, while what the next one needs is fetched. */
INLINE void backward_unit(const Plan *plan, const Buffers *at, Unit unit, Unit next, Dtype dtype) {
    const Args *args = plan->args;
    const int64_t keys = plan->keys, width = plan->width, tokens = plan->tokens;
    gather(plan, at, unit, dtype);
    for (int64_t token = 0; token < tokens; token++) {
        const int64_t place = unit.places->place[token];
        const char *from = (const char *)args->gradient + (place * args->heads + unit.head) * args->channels * dtype.size;
        if (place < 0) memset(at->g + token * width, 0, width * sizeof(float));
        else load_row(at->g + token * width, from, NULL, 1.0f, plan, dtype);
    }
    transpose(at->k_turned, at->k, plan);
    transpose(at->v_turned, at->v, plan);
    for (int64_t first = 0; first < tokens; first += ROWS) {
        float *weights = at->weights + first * keys, *slopes = at->slopes + first * keys;
        multiply(weights, keys, at->q + first * width, width, 1, at->k_turned, keys, args->channels, keys);
        multiply(slopes, keys, at->g + first * width, width, 1, at->v_turned, keys, args->channels, keys);
        for (int64_t i = 0; i < ROWS && first + i < tokens; i++) {
            prefetch(plan, next, first + i, dtype.size, 1);
            const float inverse = soften_query(plan, weights + i * keys, unit, first + i);
            for (int64_t j = i * keys; j < (i + 1) * keys; j += LANES) store(weights + j, load(weights + j) * inverse);
            float *sum = args->bias_gradient ? at->bias_sum + (first + i) * keys : NULL;
            differentiate_softmax(slopes + i * keys, weights + i * keys, sum, keys);
        }
        multiply(at->dq + first * width, width, slopes, keys, 1, at->k, width, tokens, plan->columns);
    }
    for (int64_t first = 0; first < tokens; first += ROWS) {
        multiply(at->dv + first * width, width, at->weights + first, 1, keys, at->g, width, tokens, plan->columns);
        multiply(at->dk + first * width, width, at->slopes + first, 1, keys, at->q, width, tokens, plan->columns);
    }
    scatter(plan, at, unit, dtype);
}

/* Compute the gradients of a head in a chunk of windows, and their sums. */
INLINE void backward_chunk(const Plan *plan, Buffers *at, int64_t unit, Dtype dtype) {
    const Args *args = plan->args;
    const int64_t tokens = plan->tokens, keys = plan->keys, head = unit % args->heads;
    const int64_t first = unit / args->heads * plan->chunk;
    const int64_t last = first + plan->chunk < plan->count ? first + plan->chunk : plan->count;
    float *sums = plan->sums + unit * (tokens * tokens + 2 * plan->pairs);
    memset(at->frequency_sum, 0, 2 * plan->pairs * sizeof(float));
    memset(at->bias_sum, 0, tokens * keys * sizeof(float));
    for (int64_t index = first; index < last; index++) {
        const Unit here = find_unit(plan, at, index, head, NULL);
        const Unit next = find_unit(plan, at, index + 1 < last ? index + 1 : index, head, here.places);
        backward_unit(plan, at, here, next, dtype);
    }
    for (int64_t i = 0; args->bias_gradient && i < tokens; i++)
        memcpy(sums + i * tokens, at->bias_sum + i * keys, tokens * sizeof(float));
    memcpy(sums + tokens * tokens, at->frequency_sum, 2 * plan->pairs * sizeof(float));
}

/* Add the sums of all chunks of a head, in order. */
static void add_chunks(const Plan *plan, int64_t head) {
    const Args *args = plan->args;
    const int64_t square = plan->tokens * plan->tokens, size = square + 2 * plan->pairs, pairs = args->channels / 2;
    for (int64_t start = 0, chunk = 0; start < plan->count; start += plan->chunk, chunk++) {
        float *sums = plan->sums + (chunk * args->heads + head) * size;
        for (int64_t i = 0; args->bias_gradient && i < square; i++) args->bias_gradient[head * square + i] += sums[i];
        for (int64_t i = 0; args->frequency_gradient && i < 2 * pairs; i++)
            args->frequency_gradient[head * 2 * pairs + i] += sums[square + i / pairs * plan->pairs + i % pairs];
    }
}

/* Compute what all windows share of a head: the factors of each token, and the bias in padded rows. */
static void prepare_head(const Plan *plan, int64_t head) {
    const Args *args = plan->args;
    const int64_t pairs = args->channels / 2, period = args->frequency_heads * pairs;
    for (int64_t i = 0; plan->bias && i < plan->tokens; i++)
        for (int64_t j = 0; j < plan->tokens; j++)
            plan->bias[(head * plan->tokens + i) * plan->keys + j] =
                args->bias[head * args->bias_stride[0] + i * args->bias_stride[1] + j * args->bias_stride[2]] * LOG2_E;
    if (!plan->factors || head >= args->frequency_heads) return;
    for (int64_t token = 0; token < plan->tokens; token++) {
        float *cosine = plan->factors + (head * plan->tokens + token) * 2 * plan->pairs, *sine = cosine + plan->pairs;
        const float x = token % args->window, y = token / args->window, *frequency = args->frequencies + head * pairs;
        int beyond = 0;
        for (int64_t i = 0; i < pairs; i++) {
            cosine[i] = x * frequency[i] + y * frequency[period + i];
            beyond |= !(fabsf(cosine[i]) <= 8192.0f);
        }
        if (beyond)
            for (int64_t i = 0; i < pairs; i++) sine[i] = sinf(cosine[i]), cosine[i] = cosf(cosine[i]);
        else
            for (int64_t i = 0; i < pairs; i++) cos_sin(cosine[i], &cosine[i], &sine[i]);
    }
}

/* Divide memory into the buffers of a thread; with no memory, only count the floats. */
static int64_t divide(const Plan *plan, Buffers *at, float *memory, int backward) {
    const int64_t tall = (plan->rows > plan->keys ? plan->rows : plan->keys) * plan->width;
    const int64_t square = (backward ? plan->rows : ROWS) * plan->keys, more = backward ? tall : 0;
    const struct { float **start; int64_t size; } parts[] = {
        {&at->q, tall}, {&at->k, tall}, {&at->v, tall}, {&at->g, more}, {&at->dk, more}, {&at->dv, more},
        {&at->dq, backward ? tall : ROWS * plan->width},
        {&at->k_turned, plan->columns * plan->keys}, {&at->v_turned, backward ? plan->columns * plan->keys : 0},
        {&at->weights, square + LANES}, {&at->slopes, backward ? square + LANES : 0}, /* ROWS keys from the last one on */
        {&at->places[0].mask, REGIONS * plan->keys}, {&at->places[1].mask, REGIONS * plan->keys}, {&at->bias_sum, backward ? plan->tokens * plan->keys : 0},
        {&at->frequency_sum, 2 * plan->pairs},
        {(float **)&at->places[0].place, 2 * plan->tokens}, {(float **)&at->places[0].region, 2 * plan->tokens},
        {(float **)&at->places[1].place, 2 * plan->tokens}, {(float **)&at->places[1].region, 2 * plan->tokens},
    };
    int64_t size = 0;
    for (uint64_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        if (memory) *parts[i].start = memory + size;
        size += round_up(parts[i].size, 16);
    }
    return size;
}

static float *allocate(int64_t floats) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (floats + 16) * sizeof(float))) return NULL;
    return memset(memory, 0, (floats + 16) * sizeof(float));
}

static Plan make_plan(const Args *args, int backward) {
    const int64_t window = args->window, tokens = window * window, channels = args->channels;
    const int64_t columns = round_up(channels, LANES), partial = channels % (2 * LANES) != 0;
    const int64_t count = args->images * ((args->h + window - 1) / window) * ((args->w + window - 1) / window);
    int64_t chunk = (count + 63) / 64, square = args->bias_gradient ? tokens * tokens : 1;
    const int64_t most = MOST_SUMS / (square * args->heads);
    if (chunk > 8) chunk = 8;
    if (backward && chunk * most < count) chunk = most ? (count + most - 1) / most : count;
    return (Plan){.args = args, .tokens = tokens, .rows = round_up(tokens, ROWS), .keys = round_up(tokens, LANES),
                  .columns = columns, .width = columns + partial * LANES, .pairs = round_up(channels / 2, LANES),
                  .count = count, .chunk = chunk};
}

/* Run a function for each window and head (forward) or each chunk and head (backward), in parallel. */
static int run(const Args *args, int backward, void (*run_unit)(const Plan *, Buffers *, int64_t)) {
    Plan plan = make_plan(args, backward);
    const int64_t chunks = (plan.count + plan.chunk - 1) / plan.chunk, bias = args->heads * plan.tokens * plan.keys;
    const int64_t factors = args->frequency_heads * plan.tokens * 2 * plan.pairs;
    const int64_t sums = backward ? chunks * args->heads * (plan.tokens * plan.tokens + 2 * plan.pairs) : 0;
    float *shared = allocate(factors + bias + sums);
    if (!shared) return 1;
    plan.factors = args->frequencies ? shared : NULL;
    plan.bias = args->bias ? shared + factors : NULL;
    plan.sums = shared + factors + bias;
    int failed = 0;
#pragma omp parallel num_threads((int)args->threads)
    {
        Buffers at = {0};
        float *memory = allocate(divide(&plan, &at, NULL, backward));
        if (memory == NULL) {
#pragma omp atomic write
            failed = 1;
        } else {
            divide(&plan, &at, memory, backward);
            for (int64_t i = 0; i < 2 * REGIONS; i++)
                for (int64_t key = plan.tokens; key < plan.keys; key++)
                    at.places[i / REGIONS].mask[i % REGIONS * plan.keys + key] = -INFINITY;
            at.places[0].window = at.places[1].window = -1;
        }
#pragma omp for schedule(static)
        for (int64_t head = 0; head < args->heads; head++) prepare_head(&plan, head);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < (backward ? chunks : plan.count) * args->heads; unit++)
            if (!failed) run_unit(&plan, &at, unit);
#pragma omp for schedule(static)
        for (int64_t head = 0; head < args->heads; head++)
            if (backward && !failed) add_chunks(&plan, head);
        free(memory);
    }
    free(shared);
    return failed;
}

#define FUNCTIONS(name, ...)                                                                                              \
    static void forward_##name(const Plan *plan, Buffers *at, int64_t unit) {                                             \
        const int64_t heads = plan->args->heads, after = unit + 1 < plan->count * heads ? unit + 1 : unit;                \
        const Unit here = find_unit(plan, at, unit / heads, unit % heads, NULL);                                          \
        const Unit next = find_unit(plan, at, after / heads, after % heads, here.places);                                 \
        forward_unit(plan, at, here, next, (Dtype){__VA_ARGS__});                                                         \
    }                                                                                                                     \
    static void backward_##name(const Plan *plan, Buffers *at, int64_t unit) {                                            \
        backward_chunk(plan, at, unit, (Dtype){__VA_ARGS__});                                                             \
    }                                                                                                                     \
    int window_forward_##name(const Args *args) { return run(args, 0, forward_##name); }                                  \
    int window_backward_##name(const Args *args) { return run(args, 1, backward_##name); }

FUNCTIONS(float32, 4, load_pairs_float32, store_pairs_float32)
FUNCTIONS(bfloat16, 2, load_pairs, store_pairs)
