/*
 * Sampling, in time linear in the vocabulary. Any thread, on its own scratch; no allocation, no system call.
 *
 * Two ways to the same distribution:
 *   few   0 < top_k <= 256: one pass keeps the k best in a heap, and the rest is done on k sorted candidates.
 *   all   otherwise: one pass turns logits into weights exp((logit - max) / temperature); top-k and top-p set weights
 *         to zero below a cut, which is found by radix selection (three passes over 11, 11 and 10 bits of the
 *         logit's bits), not by sorting; then a draw walks block sums.
 * Passes over the vocabulary work on LANES floats at a time through the compiler's vector types.
 */
#include "model/model_sample.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/base_rand.h"

enum { LANES = 4, BLOCK = 64, FEW_MAX = 256, DIGITS = 2048, ALIGN = 64 };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t lanes_int __attribute__((vector_size(LANES * sizeof(int32_t))));

struct candidate { float value; uint32_t id; };

/* What a scratch holds; [vocab] arrays are rounded up to whole blocks. */
struct scratch {
	float *values, *weights; /* [vocab] */
	uint32_t *ids;           /* [vocab] */
	double *block_sums;      /* [vocab / BLOCK] */
	double *digit_mass;      /* [DIGITS] */
	struct candidate *few;   /* [FEW_MAX] */
};

static size_t round_up(size_t value, size_t to)
{
	return (value + to - 1) / to * to;
}

size_t model_sample_scratch_bytes(uint32_t vocab)
{
	size_t blocks = round_up(vocab, BLOCK) / BLOCK;

	return ALIGN + 3 * blocks * BLOCK * sizeof(float) + round_up(blocks * sizeof(double), ALIGN) +
		DIGITS * sizeof(double) + FEW_MAX * sizeof(struct candidate);
}

static struct scratch lay_out(void *memory, uint32_t vocab)
{
	unsigned char *at = (unsigned char *)round_up((uintptr_t)memory, ALIGN);
	size_t blocks = round_up(vocab, BLOCK) / BLOCK;
	struct scratch scratch;

	scratch.values = (float *)(void *)at;
	at += blocks * BLOCK * sizeof(float);
	scratch.weights = (float *)(void *)at;
	at += blocks * BLOCK * sizeof(float);
	scratch.ids = (uint32_t *)(void *)at;
	at += blocks * BLOCK * sizeof(uint32_t);
	scratch.block_sums = (double *)(void *)at;
	at += round_up(blocks * sizeof(double), ALIGN);
	scratch.digit_mass = (double *)(void *)at;
	at += DIGITS * sizeof(double);
	scratch.few = (struct candidate *)(void *)at;
	return scratch;
}

/* ---- passes over the vocabulary --------------------------------------------------------------------------- */

static float clean(float logit)
{
	if (isnan(logit))
		return -INFINITY;
	return logit > FLT_MAX ? FLT_MAX : logit;
}

static lanes load(const float *from)
{
	lanes value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static lanes choose(lanes_int which, lanes a, lanes b)
{
	return (lanes)((which & (lanes_int)a) | (~which & (lanes_int)b));
}

static bool any(lanes_int which)
{
	int32_t either = 0;

	for (int i = 0; i < LANES; i++)
		either |= which[i];
	return either != 0;
}

/* The largest logit, cleaned. NaN loses every comparison. Four running maxima, so that no step waits for the last. */
static float largest(const float *logits, uint32_t vocab)
{
	lanes best[4];
	float result = -INFINITY;
	uint32_t i = 0;

	for (int part = 0; part < 4; part++)
		best[part] = (lanes){ 0 } - INFINITY;
	for (; i + 4 * LANES <= vocab; i += 4 * LANES) {
		for (uint32_t part = 0; part < 4; part++) {
			lanes value = load(logits + i + part * LANES);

			best[part] = choose(value > best[part], value, best[part]);
		}
	}
	for (int part = 0; part < 4; part++)
		for (int lane = 0; lane < LANES; lane++)
			result = best[part][lane] > result ? best[part][lane] : result;
	for (; i < vocab; i++)
		result = logits[i] > result ? logits[i] : result;
	return clean(result);
}

/* The first index from `from` on whose logit is at least `bound`, or vocab. */
static uint32_t next_from(const float *logits, uint32_t vocab, uint32_t from, float bound)
{
	uint32_t i = from;

	for (; i + 4 * LANES <= vocab; i += 4 * LANES) {
		const float *at = logits + i;

		if (any((load(at) >= bound) | (load(at + LANES) >= bound) | (load(at + 2 * LANES) >= bound) |
				(load(at + 3 * LANES) >= bound)))
			break;
	}
	while (i < vocab && !(logits[i] >= bound))
		i++;
	return i;
}

/* exp(x) for x <= 0, within 2 ulp; 0 below -87. Cody and Waite's reduction, then a polynomial of degree 6 on
 * [-ln2/2, ln2/2]. */
static lanes exp_lanes(lanes x)
{
	const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number in the low bits */
	lanes shifted, whole, rest, result;
	lanes_int dead = ~(x >= -87.0f);

	x = choose(dead, (lanes){ 0 }, x);
	shifted = x * 1.44269504f + to_integer;
	whole = shifted - to_integer;
	rest = x - whole * 0.693145752f;
	rest = rest - whole * 1.42860677e-6f;
	result = rest * 1.38888889e-3f + 8.33333333e-3f;
	result = result * rest + 4.16666667e-2f;
	result = result * rest + 1.66666667e-1f;
	result = result * rest + 0.5f;
	result = result * rest + 1.0f;
	result = result * rest + 1.0f;
	result = (lanes)((lanes_int)result + (((lanes_int)shifted - 0x4b400000) << 23));
	return choose(dead, (lanes){ 0 }, result);
}

static double sum_block(const float *weights)
{
	double sums[LANES] = { 0 }, total = 0;

	for (int i = 0; i < BLOCK; i += LANES)
		for (int lane = 0; lane < LANES; lane++)
			sums[lane] += (double)weights[i + lane];
	for (int lane = 0; lane < LANES; lane++)
		total += sums[lane];
	return total;
}

/* weights[i] = exp((logit - max) / temperature), block sums beside them; returns their sum. */
static double weigh(const float *logits, uint32_t vocab, float max, float temperature, struct scratch *scratch)
{
	double total = 0;

	for (uint32_t at = 0; at < vocab; at += BLOCK) {
		float block[BLOCK];
		float *weights = scratch->weights + at;
		uint32_t count = vocab - at < BLOCK ? vocab - at : BLOCK;

		for (uint32_t i = 0; i < BLOCK; i++)
			block[i] = -INFINITY;
		memcpy(block, logits + at, count * sizeof(*block));
		for (uint32_t i = 0; i < BLOCK; i += LANES) {
			lanes value = load(block + i), weight;

			/* +inf stands for the largest float: no difference from max may come out positive. */
			value = choose(value > max, (lanes){ 0 } + max, value);
			weight = exp_lanes((value - max) / temperature);
			memcpy(weights + i, &weight, sizeof(weight));
		}
		scratch->block_sums[at / BLOCK] = sum_block(weights);
		total += scratch->block_sums[at / BLOCK];
	}
	return total;
}

/* After weights were cut. */
static double sum_again(uint32_t vocab, struct scratch *scratch)
{
	double total = 0;

	for (uint32_t at = 0; at < vocab; at += BLOCK) {
		scratch->block_sums[at / BLOCK] = sum_block(scratch->weights + at);
		total += scratch->block_sums[at / BLOCK];
	}
	return total;
}

/* ---- the k best ------------------------------------------------------------------------------------------- */

static bool worse(struct candidate a, struct candidate b)
{
	return a.value < b.value || (a.value == b.value && a.id > b.id);
}

/* Restores a heap with the worst candidate at its root. */
static void sift_down(struct candidate *heap, uint32_t count, uint32_t at)
{
	struct candidate moved = heap[at];

	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= count)
			break;
		if (child + 1 < count && worse(heap[child + 1], heap[child]))
			child++;
		if (!worse(heap[child], moved))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moved;
}

/* The k best of the logits, best first. One pass; most logits are below the root and are passed over in lanes. */
static void best_few(const float *logits, uint32_t vocab, uint32_t k, struct candidate *few)
{
	for (uint32_t i = 0; i < k; i++)
		few[i] = (struct candidate){ clean(logits[i]), i };
	for (uint32_t i = k / 2; i-- > 0;)
		sift_down(few, k, i);
	for (uint32_t i = next_from(logits, vocab, k, few[0].value); i < vocab;
			i = next_from(logits, vocab, i + 1, few[0].value)) {
		struct candidate next = { clean(logits[i]), i };

		if (!worse(few[0], next))
			continue;
		few[0] = next;
		sift_down(few, k, 0);
	}
	for (uint32_t count = k; count > 1; count--) {
		struct candidate worst = few[0];

		few[0] = few[count - 1];
		few[count - 1] = worst;
		sift_down(few, count - 1, 0);
	}
}

/* ---- cuts among all --------------------------------------------------------------------------------------- */

/* Unsigned numbers in the order of the floats. */
static uint32_t order_key(float value)
{
	uint32_t bits;

	value = clean(value) + 0.0f; /* -0 and 0 are equal */
	memcpy(&bits, &value, sizeof(bits));
	return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Lists the ids whose weight is at least `bound` and sets all other weights to zero. */
static uint32_t list_above(uint32_t vocab, float bound, struct scratch *scratch)
{
	float *weights = scratch->weights;
	uint32_t count = 0;

	for (uint32_t i = 0; i < vocab; i += LANES) {
		lanes weight = load(weights + i);
		lanes_int stays = weight >= bound;

		weight = choose(stays, weight, (lanes){ 0 });
		memcpy(weights + i, &weight, sizeof(weight));
		for (uint32_t lane = 0; any(stays) && lane < LANES; lane++) {
			scratch->ids[count] = i + lane;
			count += stays[lane] != 0;
		}
	}
	return count;
}

struct digit { uint32_t shift, bits; };

/* Adds the mass of those listed whose higher bits equal `prefix`, by their next digit. */
static void mass_by_digit(const float *logits, uint32_t count, bool count_them, struct digit digit, uint32_t prefix,
	struct scratch *scratch)
{
	uint32_t above = digit.shift + digit.bits;

	memset(scratch->digit_mass, 0, DIGITS * sizeof(*scratch->digit_mass));
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = scratch->ids[i], key = order_key(logits[id]);

		if (above == 32 || key >> above == prefix)
			scratch->digit_mass[(key >> digit.shift) & ((1u << digit.bits) - 1)] +=
				count_them ? 1.0 : (double)scratch->weights[id];
	}
}

/* Keeps the best whose mass together first reaches `target`, and sets the weights of all others to zero. Mass is the
 * weight, or one each with count_them. Among equal logits the lower ids stay. Weights below `bound` cannot matter. */
static void keep_best(const float *logits, uint32_t vocab, bool count_them, double target, float bound,
	struct scratch *scratch)
{
	static const struct digit digits[] = { { 21, 11 }, { 10, 11 }, { 0, 10 } };
	uint32_t cut = 0, count = list_above(vocab, bound, scratch);
	double mass = 0;

	target = fmax(target, DBL_MIN); /* the best one stays, whatever is asked */
	for (int d = 0; d < 3; d++) {
		uint32_t value = (1u << digits[d].bits) - 1;

		mass_by_digit(logits, count, count_them, digits[d], cut, scratch);
		while (value > 0 && mass + scratch->digit_mass[value] < target)
			mass += scratch->digit_mass[value--];
		cut = cut << digits[d].bits | value;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = scratch->ids[i], key = order_key(logits[id]);

		if (key == cut && mass < target)
			mass += count_them ? 1.0 : (double)scratch->weights[id];
		else if (key <= cut)
			scratch->weights[id] = 0;
	}
}

/* ---- sampling --------------------------------------------------------------------------------------------- */

/* Divides positive logits of recent tokens by the penalty and multiplies the others. Reading the untouched logits makes
 * it the same however often a token occurs. */
static const float *penalise(const struct model_sampling *sampling, const float *logits, uint32_t vocab,
	const uint32_t *recent, size_t recent_count, struct scratch *scratch)
{
	float penalty = sampling->repeat_penalty;
	size_t count = recent_count < sampling->repeat_window ? recent_count : sampling->repeat_window;

	if (!(penalty > 0) || penalty == 1 || count == 0)
		return logits;
	memcpy(scratch->values, logits, vocab * sizeof(*logits));
	for (size_t i = recent_count - count; i < recent_count; i++) {
		uint32_t id = recent[i];

		if (id < vocab)
			scratch->values[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
	}
	return scratch->values;
}

/* few are sorted, best first. */
static uint32_t draw_of_few(const struct model_sampling *sampling, const struct candidate *few, uint32_t count,
	double random, double *weights)
{
	double total = 0, kept = 0, passed = 0;
	uint32_t keep = 0;

	for (uint32_t i = 0; i < count; i++) {
		weights[i] = exp(((double)few[i].value - (double)few[0].value) / (double)sampling->temperature);
		total += weights[i];
	}
	do
		kept += weights[keep++];
	while (keep < count && !(kept >= (double)sampling->top_p * total) && weights[keep] >= (double)sampling->min_p);
	for (uint32_t i = 0; i + 1 < keep; i++) {
		passed += weights[i];
		if (passed > random * kept)
			return few[i].id;
	}
	return few[keep - 1].id;
}

/* The first id at which the running sum of weights passes random * total. */
static uint32_t draw_of_all(uint32_t vocab, double total, double random, const struct scratch *scratch)
{
	double target = random * total, passed = 0;
	uint32_t last = 0, blocks = (uint32_t)(round_up(vocab, BLOCK) / BLOCK), block = 0;

	while (block + 1 < blocks && passed + scratch->block_sums[block] <= target)
		passed += scratch->block_sums[block++];
	for (uint32_t i = block * BLOCK; i < vocab; i++) {
		if (scratch->weights[i] == 0)
			continue;
		last = i;
		passed += (double)scratch->weights[i];
		if (passed > target)
			return i;
	}
	/* Rounding left the target beyond the sum: the last candidate before the end takes it. */
	for (uint32_t i = vocab; last == 0 && i-- > 0;)
		if (scratch->weights[i] != 0)
			last = i;
	return last;
}

static uint32_t sample_all(const struct model_sampling *sampling, const float *logits, uint32_t vocab, float max,
	double random, struct scratch *scratch)
{
	double total = weigh(logits, vocab, max, sampling->temperature, scratch);

	if (sampling->top_k > 0 && sampling->top_k < vocab) {
		keep_best(logits, vocab, true, sampling->top_k, FLT_MIN, scratch);
		total = sum_again(vocab, scratch);
	}
	if (sampling->top_p < 1) {
		/* All that weigh less than this cannot together hold the part that is cut off. */
		double bound = (1 - (double)sampling->top_p) * total / vocab;

		keep_best(logits, vocab, false, (double)sampling->top_p * total, (float)fmin(fmax(bound, FLT_MIN), 1),
			scratch);
		total = sum_again(vocab, scratch);
	}
	if (sampling->min_p > 0) {
		for (uint32_t i = 0; i < vocab; i++)
			if (scratch->weights[i] < sampling->min_p && scratch->weights[i] < 1)
				scratch->weights[i] = 0;
		total = sum_again(vocab, scratch);
	}
	return draw_of_all(vocab, total, random, scratch);
}

uint32_t model_sample(const struct model_sampling *sampling, const float *logits, uint32_t vocab,
	const uint32_t *recent, size_t recent_count, uint64_t position, void *memory)
{
	struct scratch scratch = lay_out(memory, vocab);
	const float *values = penalise(sampling, logits, vocab, recent, recent_count, &scratch);
	double random;
	float max;

	if (!(sampling->temperature > 0))
		return model_argmax(values, vocab);
	max = largest(values, vocab);
	if (max == -INFINITY)
		return 0;
	random = base_rand_at(sampling->seed, position);
	if (sampling->top_k > 0 && sampling->top_k <= FEW_MAX && sampling->top_k < vocab) {
		best_few(values, vocab, sampling->top_k, scratch.few);
		return draw_of_few(sampling, scratch.few, sampling->top_k, random, scratch.digit_mass);
	}
	return sample_all(sampling, values, vocab, max, random, &scratch);
}

uint32_t model_argmax(const float *logits, uint32_t vocab)
{
	float max = largest(logits, vocab);
	uint32_t id;

	if (max == -INFINITY)
		return 0;
	id = next_from(logits, vocab, 0, max);
	return id < vocab ? id : 0;
}

void model_top(const float *logits, uint32_t vocab, uint32_t k, struct model_top *top, void *memory)
{
	struct scratch scratch = lay_out(memory, vocab);
	float max = largest(logits, vocab);
	double total = weigh(logits, vocab, max, 1.0f, &scratch);

	if (k > FEW_MAX)
		k = FEW_MAX;
	if (k > vocab)
		k = vocab;
	best_few(logits, vocab, k, scratch.few);
	for (uint32_t i = 0; i < k; i++) {
		double value = (double)scratch.few[i].value;

		top[i].id = scratch.few[i].id;
		top[i].logit = scratch.few[i].value;
		top[i].log_probability = max == -INFINITY ? -INFINITY : (float)(value - (double)max - log(total));
	}
}
