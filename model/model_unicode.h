/*
 * UTF-8 and the classes of code points that tokenizers split text by. Pure functions, any thread.
 */
#ifndef MODEL_UNICODE_H
#define MODEL_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* The order is also that of tools/make-unicode.py. Symbols, marks and everything unassigned are OTHER. */
enum model_unicode_class {
	MODEL_UNICODE_OTHER, MODEL_UNICODE_LETTER, MODEL_UNICODE_NUMBER, MODEL_UNICODE_SPACE, MODEL_UNICODE_PUNCTUATION
};

/* A byte that begins no valid sequence stands for itself: its "code point" is MODEL_UNICODE_BYTE + the byte. */
enum { MODEL_UNICODE_BYTE = 0x110000, MODEL_UNICODE_END = MODEL_UNICODE_BYTE + 256 };

/* The code point at text[0]; *len_bytes is what it takes, 1 to 4 and at most left_bytes. left_bytes > 0. Overlong
 * forms, surrogates and values above U+10FFFF are invalid: their bytes come one by one. */
uint32_t model_unicode_decode(const char *text, size_t left_bytes, size_t *len_bytes);

/* The reverse, a byte that stands for itself included; returns the bytes written, 1 to 4. code < MODEL_UNICODE_END. */
size_t model_unicode_encode(uint32_t code, char text[4]);

/* Any number may be asked for. */
enum model_unicode_class model_unicode_class(uint32_t code);

#endif
