/*
 * Calibration of a device at start. See the header.
 */
#include "service/svc_calibrate.h"

#include <errno.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_log.h"
#include "sched/sched_calibrate.h"

/* What the cost model goes by without it. */
static const char *const GUESSED = "the first deadlines are judged by guessed rates";

static void say(const struct sched_calibrated *result, const char *name, const char *role)
{
	char model[96];

	base_log_quote(model, sizeof(model), name);
	if (result->error)
		base_log(BASE_LOG_WARN, role, "calibration-failed", "model=%s works=%u reason=\"%s\"%s%s%s", model, result->works,
			result->error == -ENOMEM ? "no room in the KV pool" : strerror(-result->error),
			result->works ? "" : " so=\"", result->works ? "" : GUESSED, result->works ? "" : "\"");
	if (result->works == 0 && !result->error && result->wanted)
		base_log(BASE_LOG_INFO, role, "not-calibrated", "model=%s reason=\"a step is longer than limits.calibrate_ms\" so=\"%s\"",
			model, GUESSED);
	if (result->works > 0)
		base_log(BASE_LOG_INFO, role, "calibrated",
			"model=%s decode_tokens_per_s=%.1f prefill_tokens_per_s=%.1f band=%.2f works=%u depth=%u milliseconds=%.1f", model,
			result->decode_per_s, result->prefill_per_s, result->band, result->works, result->depth,
			(double)result->took_ns * 1e-6);
}

void svc_calibrate(struct sched *sched, const struct sched_model *models, uint32_t model_count, int64_t budget_ns, const char *role)
{
	struct sched_calibrate *calibrate;

	if (budget_ns == 0)
		return;
	if (sched_calibrate_create(&calibrate, sched, budget_ns)) {
		base_log(BASE_LOG_WARN, role, "not-calibrated", "reason=\"%s\" so=\"%s\"", base_error_message(), GUESSED);
		return;
	}
	while (sched_calibrate_poll(calibrate))
		;
	for (uint32_t m = 0; m < model_count; m++)
		say(sched_calibrate_result(calibrate, m), models[m].name, role);
	say(sched_calibrate_result(calibrate, model_count), "attention", role);
	sched_calibrate_destroy(calibrate);
}
