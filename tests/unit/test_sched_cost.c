/*
 * The cost model: first guesses, what it makes of measurements (devices whose terms differ from the guesses, noise, outliers, a
 * device that changes), and the band of its errors.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "sched/sched_cost.h"

static const struct kern_properties properties = { .bytes_per_second = 1e10, .products_per_second = 1e10 };
static const struct kern_kv_geometry kv = { .layers = 2, .heads = 4, .head_dim = 64 };

/* A device whose works take other times than the properties say: its own truth, with noise. */
struct device {
	double overhead_ns, weights_ns, row_ns, visit_ns, out_ns, byte_ns;
	double noise; /* standard deviation of the logarithm, about */
};

static uint64_t rand_state;

static double between(double low, double high)
{
	return low + (high - low) * (double)(base_rand_next(&rand_state) >> 11) * 0x1p-53;
}

static int64_t takes(const struct device *device, const struct sched_load *load)
{
	const double rows_ns = load->rows * device->row_ns;
	double ns = device->overhead_ns + (rows_ns > device->weights_ns ? rows_ns : device->weights_ns) +
		(double)load->visits * device->visit_ns + load->outs * device->out_ns +
		(double)load->kv_bytes * device->byte_ns;
	double normal = -6.0;

	for (int i = 0; i < 12; i++)
		normal += between(0.0, 1.0);
	return (int64_t)(ns * exp(device->noise * normal));
}

/* Decodes, prefills, and both together, at random depths. */
static struct sched_load some_load(void)
{
	const uint32_t kinds = base_rand_next(&rand_state) % 3;
	const uint32_t decodes = kinds != 1 ? 1 + (uint32_t)base_rand_next(&rand_state) % 16 : 0;
	const uint32_t chunk = kinds != 0 ? 2 + (uint32_t)base_rand_next(&rand_state) % 255 : 0;
	struct sched_load load = { .rows = decodes + chunk, .outs = decodes + 1 };

	for (uint32_t i = 0; i < decodes; i++) {
		const uint64_t depth = 1 + base_rand_next(&rand_state) % 4000;

		load.visits += depth;
		load.kv_bytes += depth * 1024;
	}
	if (chunk > 0) {
		const uint64_t depth = base_rand_next(&rand_state) % 4000;

		load.visits += chunk * depth + chunk * chunk / 2;
		load.kv_bytes += (depth + chunk) * 1024;
	}
	return load;
}

static void init(struct sched_cost *cost)
{
	sched_cost_init(cost, &properties);
	sched_cost_model(cost, 0, 1000000, 1000000, 100000, &kv);
	sched_cost_model(cost, 1, 1000000, 1000000, 100000, &kv);
}

static struct device some_device(double noise)
{
	return (struct device){
		.overhead_ns = between(1000, 60000),
		.weights_ns = 100000 * between(0.5, 4),
		.row_ns = 100000 * between(0.1, 3),
		.visit_ns = 102 * between(0.01, 3),
		.out_ns = 10000 * between(0.1, 3),
		.byte_ns = 0.1 * between(0.01, 3),
		.noise = noise,
	};
}

/* The share of predictions that are further off than `limit`, of the last `count` of a run. */
static double share_beyond(struct sched_cost *cost, const struct device *device, int warm, int count, double limit)
{
	int beyond = 0;

	for (int i = 0; i < warm + count; i++) {
		const struct sched_load load = some_load();
		const int64_t predicted = sched_cost_predict(cost, 0, &load), actual = takes(device, &load);

		beyond += i >= warm && fabs((double)actual / (double)predicted - 1.0) > limit;
		sched_cost_learn(cost, 0, &load, predicted, actual);
	}
	return (double)beyond / count;
}

static void cost_follows_what_is_measured(void **state)
{
	struct sched_cost cost;
	struct sched_load one = { .rows = 1, .outs = 1, .visits = 100 },
			  many = { .rows = 256, .outs = 1, .visits = 30000 };
	int64_t before_ns, others_ns;

	(void)state;
	init(&cost);
	assert_in_range(
		sched_cost_predict(&cost, 0, &one), 100000, 150000); /* the weights are read once */
	assert_in_range(sched_cost_predict(&cost, 0, &many), 25600000, 30000000);
	others_ns = sched_cost_predict(&cost, 1, &one);
	for (int i = 0; i < 100; i++)
		sched_cost_learn(&cost, 0, &one, 0, 40000);
	assert_in_range(sched_cost_predict(&cost, 0, &one), 39000, 41000);
	before_ns = sched_cost_predict(&cost, 0, &one);
	sched_cost_learn(&cost, 0, &one, 0, 1000000000); /* one preempted step */
	assert_true(sched_cost_predict(&cost, 0, &one) < before_ns * 2);
	assert_int_equal(sched_cost_predict(&cost, 1, &one), others_ns);
	sched_cost_learn(&cost, 1, &many, 0, INT64_MAX);
	assert_true(sched_cost_predict(&cost, 1, &many) > 0);
}

/* Any device of these terms is learnt, whatever its coefficients. */
static void devices_are_learnt(void **state)
{
	(void)state;
	for (int trial = 0; trial < 50; trial++) {
		struct sched_cost cost;
		struct device device;

		rand_state = 1 + (uint64_t)trial;
		device = some_device(0.0);
		init(&cost);
		assert_true(share_beyond(&cost, &device, 2000, 1000, 0.05) < 0.05);
		assert_true(sched_cost_error_size(&cost, 0.5) < 0.03);
	}
}

/* Noise of 3 % costs little more than itself. */
static void noise_is_averaged(void **state)
{
	(void)state;
	for (int trial = 0; trial < 20; trial++) {
		struct sched_cost cost;
		struct device device;

		rand_state = 100 + (uint64_t)trial;
		device = some_device(0.03);
		init(&cost);
		assert_true(share_beyond(&cost, &device, 2000, 1000, 0.05) < 0.25);
		assert_true(share_beyond(&cost, &device, 0, 2000, 0.25) < 0.01);
	}
}

/* A device that becomes half as fast is believed within some tens of works of each size. */
static void changes_are_followed(void **state)
{
	struct sched_cost cost;
	struct device device;

	(void)state;
	rand_state = 7;
	device = some_device(0.02);
	init(&cost);
	(void)share_beyond(&cost, &device, 2000, 1, 0.05);
	device.overhead_ns *= 2;
	device.weights_ns *= 2;
	device.row_ns *= 2;
	device.visit_ns *= 2;
	device.out_ns *= 2;
	device.byte_ns *= 2;
	assert_true(share_beyond(&cost, &device, 1000, 1000, 0.10) < 0.10);
}

/* A long run of equal steps leaves what is known of other terms alone. */
static void monotony_forgets_nothing(void **state)
{
	struct sched_cost cost;
	struct device device;
	const struct sched_load step = { .rows = 4, .outs = 4, .visits = 400, .kv_bytes = 400 * 1024 };
	struct sched_load deep = { .rows = 4, .outs = 4, .visits = 16000, .kv_bytes = 16000 * 1024 };
	int64_t before, after;

	(void)state;
	rand_state = 8;
	device = some_device(0.01);
	init(&cost);
	(void)share_beyond(&cost, &device, 4000, 1, 0.05);
	before = sched_cost_predict(&cost, 0, &deep);
	for (int i = 0; i < 100000; i++)
		sched_cost_learn(&cost, 0, &step, 0, takes(&device, &step));
	after = sched_cost_predict(&cost, 0, &deep);
	assert_in_range(after, before * 9 / 10, before * 11 / 10);
}

/* The band holds the share that it says it holds. */
static void the_band_is_honest(void **state)
{
	struct sched_cost cost;
	struct device device;
	int below = 0;
	const int count = 4000;
	double band;

	(void)state;
	rand_state = 9;
	device = some_device(0.10);
	init(&cost);
	assert_true(sched_cost_error(&cost, 0, 0.99) == 1.0);
	(void)share_beyond(&cost, &device, 3000, 1, 0.05);
	band = sched_cost_error(&cost, 0, 0.9);
	for (int i = 0; i < count; i++) {
		const struct sched_load load = some_load();
		const int64_t predicted = sched_cost_predict(&cost, 0, &load), actual = takes(&device, &load);

		below += (double)actual <= (double)predicted * band;
		sched_cost_learn(&cost, 0, &load, predicted, actual);
	}
	assert_in_range(below, count * 85 / 100, count * 95 / 100);
}

/* Full steps on a device that computes while it reads: what is read costs nothing there, and its factor is cut at nothing
 * again and again. The others must not run away with it. */
static void cuts_drive_nothing_away(void **state)
{
	struct sched_cost cost;

	(void)state;
	rand_state = 11;
	init(&cost);
	for (int i = 0; i < 20000; i++) {
		const uint32_t decodes = 36 + (uint32_t)base_rand_next(&rand_state) % 80;
		const struct sched_load load = { .rows = 512,
			.outs = decodes,
			.visits = base_rand_next(&rand_state) % 2000000,
			.kv_bytes = decodes * UINT64_C(5000000) };
		const int64_t predicted = sched_cost_predict(&cost, 0, &load);
		const double operations_ns = 512 * 100000.0 + decodes * 10000.0 + (double)load.visits * 102.0;
		const double bytes_ns = 100000.0 + (double)load.kv_bytes * 0.1;
		const double ns = fmax(operations_ns, bytes_ns) * between(0.8, 1.6);

		if (i > 100)
			assert_true((double)predicted < 4.0 * ns && ns < 4.0 * (double)predicted);
		sched_cost_learn(&cost, 0, &load, predicted, (int64_t)ns);
	}
}

/* Whatever comes, a prediction is a positive number. */
static void nonsense_is_survived(void **state)
{
	struct sched_cost cost;

	(void)state;
	rand_state = 10;
	init(&cost);
	for (int i = 0; i < 20000; i++) {
		const struct sched_load load = {
			.rows = (uint32_t)base_rand_next(&rand_state) >> base_rand_next(&rand_state) % 32,
			.outs = (uint32_t)base_rand_next(&rand_state) >> base_rand_next(&rand_state) % 32,
			.visits = base_rand_next(&rand_state) >> base_rand_next(&rand_state) % 64,
			.kv_bytes = base_rand_next(&rand_state) >> base_rand_next(&rand_state) % 64,
		};
		const int64_t predicted = sched_cost_predict(&cost, 0, &load);

		assert_in_range(predicted, 1, (uint64_t)1e14);
		sched_cost_learn(&cost, 0, &load, predicted,
			(int64_t)(base_rand_next(&rand_state) >> (1 + base_rand_next(&rand_state) % 63)));
	}
	assert_true(sched_cost_error(&cost, 0, 1.0) <= 9.0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cost_follows_what_is_measured),
		cmocka_unit_test(devices_are_learnt),
		cmocka_unit_test(noise_is_averaged),
		cmocka_unit_test(changes_are_followed),
		cmocka_unit_test(monotony_forgets_nothing),
		cmocka_unit_test(the_band_is_honest),
		cmocka_unit_test(cuts_drive_nothing_away),
		cmocka_unit_test(nonsense_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
