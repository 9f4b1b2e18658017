/*
 * Limits with AMX: see limits.h. Four tiles of sums, two of each factor, so that four products are under way at a time.
 * Called only where base_cpu() has AMX and the kernel has granted the tiles' data to this process.
 */
#include <errno.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/bench/limits.h"

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, TILES = 8, TILE_ROWS = 16, TILE_BYTES = 64 };

/* As LDTILECFG reads it. */
struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t bytes[16];
	uint8_t rows[16];
};

int limits_amx_prepare(void)
{
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 ? 0 : -errno;
}

static void configure(void)
{
	struct tile_config config;

	memset(&config, 0, sizeof(config));
	config.palette = 1;
	for (int i = 0; i < TILES; i++) {
		config.bytes[i] = TILE_BYTES;
		config.rows[i] = TILE_ROWS;
	}
	/* The intrinsic of older compilers names eight bytes as read; the stores to the others would be taken for dead. */
	__asm__ volatile("" : : "r"(&config) : "memory");
	_tile_loadconfig(&config);
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	_tile_zero(4);
	_tile_zero(5);
	_tile_zero(6);
	_tile_zero(7);
}

uint64_t limits_amx_int8(uint64_t rounds)
{
	configure();
	for (uint64_t i = 0; i < rounds; i++) {
		_tile_dpbssd(0, 4, 6);
		_tile_dpbssd(1, 4, 7);
		_tile_dpbssd(2, 5, 6);
		_tile_dpbssd(3, 5, 7);
	}
	_tile_release();
	return rounds * 4 * 16 * 16 * 64 * 2;
}

uint64_t limits_amx_bf16(uint64_t rounds)
{
	configure();
	for (uint64_t i = 0; i < rounds; i++) {
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 4, 7);
		_tile_dpbf16ps(2, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
	}
	_tile_release();
	return rounds * 4 * 16 * 16 * 32 * 2;
}
