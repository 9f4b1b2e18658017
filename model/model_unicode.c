/*
 * UTF-8 decoding, and classes of code points from a generated table of ranges. Pure functions, any thread.
 */
#include "model/model_unicode.h"

#include "model/model_unicode_table.h"

enum { RANGE_COUNT = sizeof(UNICODE_RANGES) / sizeof(UNICODE_RANGES[0]) };

/* Bytes that the lead byte announces (0: it is no lead byte), and the smallest code point that may take so many. */
static size_t announced(unsigned char lead, uint32_t *least)
{
	size_t len = 0;

	if (lead >= 0xc2 && lead <= 0xdf) {
		*least = 0x80;
		len = 2;
	} else if (lead >= 0xe0 && lead <= 0xef) {
		*least = 0x800;
		len = 3;
	} else if (lead >= 0xf0 && lead <= 0xf4) {
		*least = 0x10000;
		len = 4;
	}
	return len;
}

uint32_t model_unicode_decode(const char *text, size_t left_bytes, size_t *len_bytes)
{
	unsigned char lead = (unsigned char)text[0];
	uint32_t least = 0, code;
	size_t len, i;

	*len_bytes = 1;
	if (lead < 0x80)
		return lead;
	len = announced(lead, &least);
	if (len == 0 || len > left_bytes)
		return MODEL_UNICODE_BYTE + lead;
	code = lead & (0x7fu >> len);
	for (i = 1; i < len; i++) {
		unsigned char next = (unsigned char)text[i];

		if ((next & 0xc0) != 0x80)
			return MODEL_UNICODE_BYTE + lead;
		code = code << 6 | (next & 0x3fu);
	}
	if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return MODEL_UNICODE_BYTE + lead;
	*len_bytes = len;
	return code;
}

size_t model_unicode_encode(uint32_t code, char text[4])
{
	if (code < 0x80 || code >= MODEL_UNICODE_BYTE) {
		text[0] = (char)(code & 0xff);
		return 1;
	}
	if (code < 0x800) {
		text[0] = (char)(0xc0 | code >> 6);
		text[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		text[0] = (char)(0xe0 | code >> 12);
		text[1] = (char)(0x80 | (code >> 6 & 0x3f));
		text[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	text[0] = (char)(0xf0 | code >> 18);
	text[1] = (char)(0x80 | (code >> 12 & 0x3f));
	text[2] = (char)(0x80 | (code >> 6 & 0x3f));
	text[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

enum model_unicode_class model_unicode_class(uint32_t code)
{
	size_t low = 0, high = RANGE_COUNT;

	if (code < 128)
		return (enum model_unicode_class)UNICODE_ASCII[code];
	if (code >= MODEL_UNICODE_BYTE)
		return MODEL_UNICODE_OTHER;
	while (high - low > 1) {
		size_t middle = (low + high) / 2;

		if (UNICODE_RANGES[middle] >> 3 <= code)
			low = middle;
		else
			high = middle;
	}
	return (enum model_unicode_class)(UNICODE_RANGES[low] & 7);
}
