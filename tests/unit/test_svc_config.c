/*
 * The configuration: defaults, files, single values, and every kind of mistake with its message.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "service/svc_config.h"

static struct svc_config config;

static int from_text(const char *text)
{
	char path[] = "/tmp/attnd-config-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	svc_config_defaults(&config);
	int rc = svc_config_file(&config, path);

	unlink(path);
	return rc;
}

static void test_defaults(void **state)
{
	struct svc_config defaults;
	char *text = NULL, line[1024], *uncommented;
	size_t length;
	FILE *file = open_memstream(&text, &length);

	(void)state;
	svc_config_defaults(&defaults);
	assert_int_equal(svc_config_check(&defaults), 0);
	svc_config_print_defaults(file);
	fclose(file);
	/* The printed file says what the defaults are: with its settings uncommented it changes
	 * nothing. */
	uncommented = calloc(1, length + 1);
	for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
		snprintf(line, sizeof(line), "%.*s\n", (int)(end - at), at);
		if (strstr(line, "[model") || strstr(line, "[tenant"))
			break;
		strcat(uncommented, line[0] == '#' && line[1] != ' ' ? line + 1 : line);
	}
	assert_int_equal(from_text(uncommented), 0);
	assert_memory_equal(&config, &defaults, sizeof(config));
	free(uncommented);
	free(text);
}

static void test_example_is_current(void **state)
{
	char *text = NULL, *example;
	size_t length, have;
	FILE *file = open_memstream(&text, &length);

	(void)state;
	svc_config_print_defaults(file);
	fclose(file);
	file = fopen("service/attnd.conf", "re");
	assert_non_null(file);
	example = calloc(1, length + 2);
	have = fread(example, 1, length + 1, file);
	fclose(file);
	assert_int_equal(have, length);
	assert_string_equal(
		example, text); /* make it anew: build/attnd --print-config > service/attnd.conf */
	free(example);
	free(text);
}

static void test_values(void **state)
{
	(void)state;
	assert_int_equal(
		from_text(
			"[kv]\npool = 3g\ndefault=int8\n[placement]\nworkers=auto\nworker_cpus=1,2, 3\nidle = spin\n"
			"[model small]\npath=/dev/null\n[tenant a]\nuid=7\nmodels=small\nkv=1M\n[tenant b]\n\ngid = 9\nattention=no\n"
			"requests = 12\ndevice_ms = 250\ndevice_burst_ms = 40\n"),
		0);
	assert_int_equal(config.kv_pool_bytes, INT64_C(3) << 30);
	assert_int_equal(config.kv_default, KERN_KV_INT8);
	assert_int_equal(config.workers, SVC_AUTO);
	assert_int_equal(config.worker_cpus.count, 3);
	assert_int_equal(config.worker_cpus.cpus[2], 3);
	assert_int_equal(config.idle, SVC_IDLE_SPIN);
	assert_string_equal(config.models[0].name, "small");
	assert_int_equal(config.tenant_count, 2);
	assert_int_equal(config.tenants[0].kv_bytes, 1 << 20);
	assert_false(config.tenants[1].attention);
	assert_true(config.tenants[0].requests == 0 && config.tenants[0].device_ms == 0);
	assert_true(config.tenants[1].requests == 12 && config.tenants[1].device_ms == 250 &&
		config.tenants[1].device_burst_ms == 40);
	assert_int_equal(svc_config_check(&config), 0);
	assert_int_equal(svc_config_tenant(&config, 7, 1), 0);
	assert_int_equal(svc_config_tenant(&config, 8, 9), 1);
	assert_int_equal(svc_config_tenant(&config, 8, 8), -ENOENT);
}

static void test_overrides(void **state)
{
	(void)state;
	svc_config_defaults(&config);
	assert_int_equal(svc_config_set(&config, "limits.sessions=12"), 0);
	assert_int_equal(config.sessions, 12);
	assert_int_equal(svc_config_set(&config, "model.a.b.path=/x=y"), 0);
	assert_string_equal(config.models[0].name, "a.b");
	assert_string_equal(config.models[0].path, "/x=y");
	assert_int_equal(svc_config_set(&config, "tenant.t.clients=3"), 0);
	assert_int_equal(config.tenants[0].clients, 3);
	assert_int_equal(svc_config_set(&config, "nonsense"), -EINVAL);
	assert_int_equal(svc_config_set(&config, "x=1"), -EINVAL);
}

static void wrong(const char *text, const char *says)
{
	int rc = from_text(text);

	if (!rc)
		rc = svc_config_check(&config);
	assert_int_not_equal(rc, 0);
	if (!strstr(base_error_message(), says))
		fail_msg("\"%s\" does not say \"%s\"", base_error_message(), says);
}

static void test_mistakes(void **state)
{
	char many[8192] = "", long_path[4096];

	(void)state;
	wrong("[kv]\npool = -1\n", "pool");
	wrong("[kv]\npool = 99999999999999999999\n", "pool");
	wrong("[kv]\npool = 12x\n", "pool");
	wrong("[kv]\ndefault = fp3\n", "choose one of: f32 bf16 int8");
	wrong("[kv]\nflavour = 1\n", "no such setting");
	wrong("[shm]\nmax_clients = 0\n", "from 1 to 4096");
	wrong("\n\n[shm]\nmax_clients = 5000\n", "line 4");
	wrong("rubbish\n", "line 1");
	wrong("[placement]\nworker_cpus = 1,,x\n", "worker_cpus");
	wrong("[placement]\ncpu_dma_latency = perhaps\n", "yes or no");
	wrong("[shm]\nsubmission_slots = 100\n", "powers of two");
	wrong("[shm]\nsocket_mode = 999\n", "octal");
	wrong("[shm]\ncompletion_slots = 16\n[limits]\nclient_requests = 100\n", "twice");
	wrong("[limits]\nstep_rows = 10\n", "prefill_chunk");
	wrong("[daemon]\nlog_level = loud\n", "loud");
	wrong("[model m]\npath = /nonexistent/model.gguf\n", "/nonexistent/model.gguf");
	wrong("[model m]\nsize = 3\n", "unknown key");
	wrong("[tenant t]\nmodels = ghost\n", "no [model ghost]");
	wrong("[tenant t]\nuid = bob\n", "uid");
	wrong("[tenant t]\ndevice_ms = 1001\n", "device_ms");
	wrong("[tenant t]\nweight = 0\n", "weight");
	for (int i = 0; i < SCHED_MODELS_MAX + 1; i++)
		sprintf(many + strlen(many), "[model m%d]\npath = /dev/null\n", i);
	wrong(many, "more than");
	snprintf(long_path, sizeof(long_path), "[model m]\npath = /%03000d\n", 0);
	assert_int_not_equal(from_text(long_path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_example_is_current),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_overrides),
		cmocka_unit_test(test_mistakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
