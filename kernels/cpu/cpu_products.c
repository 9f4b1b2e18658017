/*
 * The choice of product kernels, at start. Any thread.
 */
#include "kernels/cpu/cpu_products.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

const struct cpu_products *cpu_products_float(enum base_isa isa)
{
#if defined(__x86_64__)
	if (isa == BASE_ISA_AVX512)
		return &cpu_products_float_avx512;
	if (isa == BASE_ISA_AVX2)
		return &cpu_products_float_avx2;
#endif
	(void)isa;
	return &cpu_products_float_scalar;
}

#if defined(__x86_64__)
static bool tiles_allowed;

/* Tile registers are large, so a process has to ask for them before their first use; threads to come inherit the leave. It
 * is not asked for where nobody multiplies: signal stacks have to be larger from then on. */
static void ask_for_tiles(void)
{
	enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

	tiles_allowed = base_cpu()->amx_int8 && base_cpu()->avx512_vnni &&
		syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

const struct cpu_products *cpu_products_amx(void)
{
#if defined(__x86_64__)
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, ask_for_tiles);
	return tiles_allowed ? &cpu_products_integer_amx : NULL;
#else
	return NULL;
#endif
}

const struct cpu_products *cpu_products_integer(enum base_isa isa)
{
#if defined(__x86_64__)
	if (isa == BASE_ISA_AVX512 && cpu_products_amx())
		return cpu_products_amx();
	if (isa == BASE_ISA_AVX512 && base_cpu()->avx512_vnni)
		return &cpu_products_integer_avx512;
	if (isa >= BASE_ISA_AVX2)
		return &cpu_products_integer_avx2;
#endif
	(void)isa;
	return &cpu_products_integer_scalar;
}
