/*
 * CPU detection: consistent with the kernel's view, and cut down by ATTND_ISA. It is read once per process,
 * so each case runs in a child.
 */
#include "base/base_cpu.h"

#include "base/base_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct base_cpu cpu_with(const char *wanted)
{
	struct base_cpu seen;
	int ends[2], status;
	pid_t child;

	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		setenv("ATTND_ISA", wanted, 1);
		base_log_set_level(BASE_LOG_ERROR);
		_exit(write(ends[1], base_cpu(), sizeof(seen)) != sizeof(seen));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(read(ends[0], &seen, sizeof(seen)), sizeof(seen));
	close(ends[0]);
	close(ends[1]);
	return seen;
}

static bool kernel_knows(const char *flag)
{
	char line[8192], word[64];
	bool found = false;
	FILE *file = fopen("/proc/cpuinfo", "re");

	snprintf(word, sizeof(word), " %s ", flag);
	while (file && !found && fgets(line, sizeof(line), file))
		found = strncmp(line, "flags", 5) == 0 && strstr(line, word);
	if (file)
		fclose(file);
	return found;
}

static void test_agrees_with_the_kernel(void **state)
{
	struct base_cpu cpu = cpu_with("");

	(void)state;
#if defined(__x86_64__)
	assert_int_equal(cpu.isa >= BASE_ISA_AVX2, kernel_knows("avx2") && kernel_knows("fma"));
	assert_int_equal(cpu.isa >= BASE_ISA_AVX512, kernel_knows("avx512f") && kernel_knows("avx512bw") &&
		kernel_knows("avx512dq") && kernel_knows("avx512vl") && kernel_knows("avx512cd"));
	assert_int_equal(cpu.avx512_vnni, kernel_knows("avx512_vnni"));
	assert_int_equal(cpu.avx512_bf16, kernel_knows("avx512_bf16"));
	assert_int_equal(cpu.avx_vnni, kernel_knows("avx_vnni"));
	assert_int_equal(cpu.amx_int8, kernel_knows("amx_int8"));
	assert_int_equal(cpu.amx_bf16, kernel_knows("amx_bf16"));
#else
	assert_int_equal(cpu.isa, BASE_ISA_SCALAR);
#endif
	assert_true(strlen(cpu.brand) < sizeof(cpu.brand));
}

static void test_cut_down(void **state)
{
	struct base_cpu whole = cpu_with(""), cut = cpu_with("avx2");

	(void)state;
	assert_int_equal(cut.isa, whole.isa < BASE_ISA_AVX2 ? whole.isa : BASE_ISA_AVX2);
	assert_false(cut.avx512_vnni || cut.avx512_bf16 || cut.amx_int8 || cut.amx_bf16);
	assert_int_equal(cut.avx_vnni, whole.avx_vnni);
	cut = cpu_with("scalar");
	assert_int_equal(cut.isa, BASE_ISA_SCALAR);
	assert_false(cut.avx_vnni);
	cut = cpu_with("avx512");
	assert_int_equal(cut.isa, whole.isa);
	assert_false(cut.amx_int8 || cut.amx_bf16);
	cut = cpu_with("amx");
	assert_memory_equal(&cut, &whole, sizeof(cut));
	cut = cpu_with("quantum");
	assert_int_equal(cut.isa, whole.isa);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(base_isa_name(BASE_ISA_SCALAR), "scalar");
	assert_string_equal(base_isa_name(BASE_ISA_AVX2), "avx2");
	assert_string_equal(base_isa_name(BASE_ISA_AVX512), "avx512");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agrees_with_the_kernel),
		cmocka_unit_test(test_cut_down),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
