/*
 * Values on a command line. Each parser ends the program with a sentence and TOOL_USAGE when
 * the text is not what the option takes, so that callers stay plain.
 *
 * Main thread, at start.
 */
#ifndef TOOL_ARGS_H
#define TOOL_ARGS_H

#include <argp.h>
#include <stddef.h>
#include <stdint.h>

/* Reads the options of a tool, or of one command of a tool, with the version and the exit code
 * that all of them share. An option that nothing knows ends the program. */
void tool_args_parse(const struct argp *argp, int argc, char **argv, void *input);

/* name is the option, for the message: "--rate". */
uint64_t tool_args_u64(const char *name, const char *text, uint64_t low, uint64_t high);
double tool_args_double(const char *name, const char *text, double low, double high);
/* Exactly `count` numbers with commas between; text is taken apart. */
void tool_args_doubles(const char *name, char *text, size_t count, double low, double high, double *values);
/* The same of percent that make 100, as shares that make 1. */
void tool_args_shares(const char *name, char *text, size_t count, double *shares);
/* 4096, 64k, 16M, 1G (powers of 1024) */
uint64_t tool_args_size(const char *name, const char *text, uint64_t low, uint64_t high);
/* Index of text in choices, a NULL-terminated list. */
unsigned tool_args_choice(const char *name, const char *text, const char *const *choices);

/* The choices that several tools share, in the order of the contract's enums. */
extern const char *const tool_args_kv[];      /* enum attnd_kv */
extern const char *const tool_args_classes[]; /* enum attnd_class */

#endif
