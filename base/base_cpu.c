/*
 * CPUID, read once. Any thread; the first caller reads, the others wait for it.
 */
#include "base/base_cpu.h"

#include "base/base_log.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static struct base_cpu this_cpu;
static pthread_once_t this_cpu_once = PTHREAD_ONCE_INIT;

static const char *const isa_names[] = {"scalar", "avx2", "avx512"};

#if defined(__x86_64__)
#include <cpuid.h>

/* What the operating system saves at a switch of threads: the bits of XCR0. */
enum {
	SAVES_AVX = 0x6,      /* XMM and YMM */
	SAVES_AVX512 = 0xe6,  /* also mask registers and both halves of ZMM */
	SAVES_AMX = 0x60000,  /* tile configuration and data */
};

static uint64_t saved_registers(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

static bool saves(uint64_t saved, uint64_t wanted)
{
	return (saved & wanted) == wanted;
}

static void read_brand(char *brand)
{
	uint32_t words[12];

	if ((uint32_t)__get_cpuid_max(0x80000000, NULL) < 0x80000004)
		return;
	for (uint32_t i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
			&words[4 * i + 3]);
	memcpy(brand, words, sizeof(words));
	brand[sizeof(words)] = '\0';
}

static void read_cpuid(struct base_cpu *cpu)
{
	uint32_t eax, ebx, ecx = 0, edx, ebx7, ecx7, edx7, eax71 = 0;
	uint64_t saved;
	bool avx2, avx512;

	read_brand(cpu->brand);
	cpu->amd = __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_AMD_ebx;
	if (__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx))
		cpu->invariant_tsc = edx & 1u << 8;

	if (!__get_cpuid_count(7, 0, &eax, &ebx7, &ecx7, &edx7))
		return;
	if (eax >= 1)
		__get_cpuid_count(7, 1, &eax71, &ebx, &ecx, &edx);
	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
		return;
	saved = saved_registers();

	avx2 = saves(saved, SAVES_AVX) && (ebx7 & bit_AVX2) && (ecx & bit_FMA) && (ecx & bit_F16C);
	avx512 = avx2 && saves(saved, SAVES_AVX512) && (ebx7 & bit_AVX512F) && (ebx7 & bit_AVX512BW) &&
		(ebx7 & bit_AVX512DQ) && (ebx7 & bit_AVX512VL) && (ebx7 & bit_AVX512CD);
	cpu->isa = avx512 ? BASE_ISA_AVX512 : avx2 ? BASE_ISA_AVX2 : BASE_ISA_SCALAR;
	cpu->avx_vnni = avx2 && (eax71 & 1u << 4);
	cpu->avx512_vnni = avx512 && (ecx7 & bit_AVX512VNNI);
	cpu->avx512_bf16 = avx512 && (eax71 & 1u << 5);
	if (avx512 && saves(saved, SAVES_AMX) && (edx7 & 1u << 24)) {
		cpu->amx_bf16 = edx7 & 1u << 22;
		cpu->amx_int8 = edx7 & 1u << 25;
	}
}
#else
static void read_cpuid(struct base_cpu *cpu)
{
	strcpy(cpu->brand, "not an x86-64");
}
#endif

/* Takes away everything that belongs to a larger instruction set than the wanted one. */
static void cut_down(struct base_cpu *cpu, enum base_isa wanted)
{
	if (wanted < cpu->isa)
		cpu->isa = wanted;
	cpu->amx_int8 = cpu->amx_bf16 = false;
	if (cpu->isa < BASE_ISA_AVX512)
		cpu->avx512_vnni = cpu->avx512_bf16 = false;
	if (cpu->isa < BASE_ISA_AVX2)
		cpu->avx_vnni = false;
}

static void read_once(void)
{
	const char *wanted = getenv("ATTND_ISA");

	read_cpuid(&this_cpu);
	if (!wanted || !*wanted || strcmp(wanted, "amx") == 0)
		return;
	for (int isa = BASE_ISA_SCALAR; isa <= BASE_ISA_AVX512; isa++) {
		if (strcmp(wanted, isa_names[isa]) == 0) {
			cut_down(&this_cpu, (enum base_isa)isa);
			return;
		}
	}
	base_log(BASE_LOG_WARN, "base", "isa_unknown", "ATTND_ISA=%.32s known=scalar,avx2,avx512,amx", wanted);
}

const struct base_cpu *base_cpu(void)
{
	pthread_once(&this_cpu_once, read_once);
	return &this_cpu;
}

const char *base_isa_name(enum base_isa isa)
{
	return isa_names[isa];
}
