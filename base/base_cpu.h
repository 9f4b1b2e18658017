/*
 * What this CPU can do, from CPUID and XGETBV (the operating system must save the registers as well), cut down
 * by ATTND_ISA=scalar|avx2|avx512|amx in the environment, which tests use (amx: everything; avx512: no AMX). Read once per process.
 */
#ifndef BASE_CPU_H
#define BASE_CPU_H

#include <stdbool.h>

enum base_isa { BASE_ISA_SCALAR, BASE_ISA_AVX2, BASE_ISA_AVX512 };

struct base_cpu {
	enum base_isa isa;   /* AVX2 means avx2+fma+f16c; AVX512 means f,bw,dq,vl,cd too */
	bool avx512_vnni, avx512_bf16, avx_vnni;
	bool amx_int8, amx_bf16; /* there; a process has to ask the kernel for leave before it uses them */
	bool invariant_tsc;
	bool amd;
	char brand[49];
};

const struct base_cpu *base_cpu(void);
const char *base_isa_name(enum base_isa isa);

#endif
