/*
 * Small float32 tensors in files. See attnrun_tensor.h.
 */
#include "tools/attnrun_tensor.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base_error.h"
#include "base/base_rand.h"

enum { HEADER_MAX = 4096, PREAMBLE = 10 };
static const unsigned char npy_magic[6] = { 0x93, 'N', 'U', 'M', 'P', 'Y' };

/* The dictionary's shape, "(3, 4)" after 'shape':. Returns the number of elements, 0 when it is
 * malformed. */
static size_t parse_shape(struct attnrun_tensor *tensor, const char *header)
{
	const char *at = strstr(header, "'shape':");
	size_t count = 1;

	at = at ? strchr(at, '(') : NULL;
	if (!at)
		return 0;
	for (at++; *at && *at != ')';) {
		char *end;
		unsigned long long size = strtoull(at, &end, 10);

		if (end == at || size == 0 || size > ATTNRUN_TENSOR_BYTES_MAX / count ||
			tensor->dims == ATTNRUN_TENSOR_DIMS)
			return 0;
		tensor->shape[tensor->dims++] = (size_t)size;
		count *= (size_t)size;
		at = end + strspn(end, ", ");
	}
	return *at == ')' ? count : 0;
}

/* Reads the .npy header; *element_bytes becomes 4 or 8. */
static int read_header(
	struct attnrun_tensor *tensor, const char *path, FILE *file, size_t *element_bytes)
{
	unsigned char preamble[12];
	char header[HEADER_MAX + 1];

	if (fread(preamble, 1, PREAMBLE, file) != PREAMBLE)
		return base_fail(EBADMSG, "%s ends within its header", path);
	size_t length = preamble[8] | (size_t)preamble[9] << 8;

	if (preamble[6] == 2) {
		if (fread(preamble + PREAMBLE, 1, 2, file) != 2)
			return base_fail(EBADMSG, "%s ends within its header", path);
		length |= (size_t)preamble[10] << 16 | (size_t)preamble[11] << 24;
	}
	if (preamble[6] < 1 || preamble[6] > 2 || length > HEADER_MAX)
		return base_fail(ENOTSUP,
			"%s is .npy of a version or with a header that is not read here", path);
	if (fread(header, 1, length, file) != length)
		return base_fail(EBADMSG, "%s ends within its header", path);
	header[length] = '\0';
	*element_bytes = strstr(header, "'<f4'") ? 4 : strstr(header, "'<f8'") ? 8 : 0;
	if (!*element_bytes || !strstr(header, "'fortran_order': False"))
		return base_fail(ENOTSUP, "%s must hold float32 or float64 in C order", path);
	tensor->count = parse_shape(tensor, header);
	if (tensor->count == 0)
		return base_fail(ENOTSUP,
			"%s has a shape that is not read here (1 to %d dimensions, none 0)", path,
			ATTNRUN_TENSOR_DIMS);
	return 0;
}

static int read_elements(
	struct attnrun_tensor *tensor, const char *path, FILE *file, size_t element_bytes)
{
	double wide;

	tensor->data = malloc(tensor->count * sizeof(float));
	if (!tensor->data)
		return base_fail(
			ENOMEM, "no memory for the %zu numbers of %s", tensor->count, path);
	for (size_t i = 0; element_bytes == 8 && i < tensor->count; i++) {
		if (fread(&wide, sizeof(wide), 1, file) != 1)
			return base_fail(EBADMSG, "%s is shorter than its shape", path);
		tensor->data[i] = (float)wide;
	}
	if (element_bytes == 4 &&
		fread(tensor->data, sizeof(float), tensor->count, file) != tensor->count)
		return base_fail(EBADMSG, "%s is shorter than its shape", path);
	return 0;
}

static int read_open(struct attnrun_tensor *tensor, const char *path, FILE *file)
{
	unsigned char magic[sizeof(npy_magic)];
	size_t element_bytes = 4;
	struct stat info;

	if (fstat(fileno(file), &info) || !S_ISREG(info.st_mode) || info.st_size == 0 ||
		(uint64_t)info.st_size > ATTNRUN_TENSOR_BYTES_MAX)
		return base_fail(EINVAL, "%s is not a file of a size that is read here", path);
	bool npy = fread(magic, 1, sizeof(magic), file) == sizeof(magic) &&
		memcmp(magic, npy_magic, sizeof(magic)) == 0;

	rewind(file);
	if (npy) {
		int err = read_header(tensor, path, file, &element_bytes);

		if (err)
			return err;
	} else {
		tensor->count = (size_t)info.st_size / sizeof(float);
	}
	return read_elements(tensor, path, file, element_bytes);
}

int attnrun_tensor_read(struct attnrun_tensor *tensor, const char *path)
{
	FILE *file = fopen(path, "rbe");

	memset(tensor, 0, sizeof(*tensor));
	if (!file)
		return base_fail(errno, "cannot open %s: %s", path, strerror(errno));
	int err = read_open(tensor, path, file);

	fclose(file);
	if (err)
		attnrun_tensor_free(tensor);
	return err;
}

/* The header is padded so that the numbers begin at a multiple of 64 bytes, as the format asks. */
static void write_header(const struct attnrun_tensor *tensor, FILE *file)
{
	char header[256];
	int length = snprintf(
		header, sizeof(header), "{'descr': '<f4', 'fortran_order': False, 'shape': (");

	for (unsigned i = 0; i < tensor->dims; i++)
		length += snprintf(
			header + length, sizeof(header) - (size_t)length, "%zu,", tensor->shape[i]);
	length += snprintf(header + length, sizeof(header) - (size_t)length, "), }");
	while ((PREAMBLE + length + 1) % 64)
		header[length++] = ' ';
	header[length++] = '\n';
	fwrite(npy_magic, 1, sizeof(npy_magic), file);
	fputc(1, file);
	fputc(0, file);
	fputc(length & 255, file);
	fputc(length >> 8, file);
	fwrite(header, 1, (size_t)length, file);
}

int attnrun_tensor_write(const struct attnrun_tensor *tensor, const char *path)
{
	size_t length = strlen(path);
	FILE *file = fopen(path, "wbe");

	if (!file)
		return base_fail(errno, "cannot write %s: %s", path, strerror(errno));
	if (length >= 4 && strcmp(path + length - 4, ".npy") == 0)
		write_header(tensor, file);
	fwrite(tensor->data, sizeof(float), tensor->count, file);
	bool bad = ferror(file);

	if (fclose(file) || bad)
		return base_fail(EIO, "cannot write all of %s", path);
	return 0;
}

int attnrun_tensor_random(struct attnrun_tensor *tensor, size_t count, uint64_t seed)
{
	memset(tensor, 0, sizeof(*tensor));
	tensor->data = malloc(count * sizeof(float));
	if (!tensor->data)
		return base_fail(ENOMEM, "no memory for %zu random numbers", count);
	tensor->count = count;
	for (size_t i = 0; i < count; i++) {
		double u = 1 - base_rand_at(seed, 2 * i), v = base_rand_at(seed, 2 * i + 1);

		tensor->data[i] = (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
	}
	return 0;
}

void attnrun_tensor_free(struct attnrun_tensor *tensor)
{
	free(tensor->data);
	tensor->data = NULL;
}
