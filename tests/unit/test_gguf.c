/*
 * The GGUF reader: what a good file yields, and that each way of being bad has its own message. Files are built byte
 * by byte here, so that nothing the writer would correct can hide a hole in the reader.
 */
#include "model/model_gguf.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"

struct file { unsigned char bytes[8192]; size_t size; };

static void put(struct file *file, const void *bytes, size_t size)
{
	assert_true(size <= sizeof(file->bytes) - file->size);
	memcpy(file->bytes + file->size, bytes, size);
	file->size += size;
}

static void put_u8(struct file *file, uint8_t value) { put(file, &value, sizeof(value)); }
static void put_u32(struct file *file, uint32_t value) { put(file, &value, sizeof(value)); }
static void put_u64(struct file *file, uint64_t value) { put(file, &value, sizeof(value)); }
static void put_f32(struct file *file, float value) { put(file, &value, sizeof(value)); }

static void put_text(struct file *file, const char *text)
{
	put_u64(file, strlen(text));
	put(file, text, strlen(text));
}

static void put_header(struct file *file, uint64_t tensors, uint64_t keys)
{
	file->size = 0;
	put(file, "GGUF", 4);
	put_u32(file, 3);
	put_u64(file, tensors);
	put_u64(file, keys);
}

static void put_key(struct file *file, const char *name, uint32_t type)
{
	put_text(file, name);
	put_u32(file, type);
}

static void put_tensor(struct file *file, const char *name, uint32_t type, uint64_t columns, uint64_t rows,
	uint64_t offset)
{
	put_text(file, name);
	put_u32(file, 2);
	put_u64(file, columns);
	put_u64(file, rows);
	put_u32(file, type);
	put_u64(file, offset);
}

static void pad(struct file *file, size_t alignment)
{
	while (file->size % alignment != 0)
		put_u8(file, 0);
}

/* Zeros, as data. */
static void put_zeros(struct file *file, size_t size)
{
	assert_true(size <= sizeof(file->bytes) - file->size);
	memset(file->bytes + file->size, 0, size);
	file->size += size;
}

/* Opening fails with -EBADMSG and a message that holds `part`. */
static void refused(const struct file *file, const char *part)
{
	struct model_gguf *gguf = NULL;

	base_error_clear();
	assert_int_equal(model_gguf_open_memory(&gguf, file->bytes, file->size), -EBADMSG);
	if (!strstr(base_error_message(), part))
		fail_msg("message '%s' does not speak of '%s'", base_error_message(), part);
}

/* One of everything. */
static void good_file(struct file *file)
{
	put_header(file, 3, 12);
	put_key(file, "general.architecture", MODEL_GGUF_STRING);
	put_text(file, "llama");
	put_key(file, "a.u8", MODEL_GGUF_U8);
	put_u8(file, 200);
	put_key(file, "a.i8", MODEL_GGUF_I8);
	put_u8(file, 0xfe);
	put_key(file, "a.u64", MODEL_GGUF_U64);
	put_u64(file, UINT64_MAX);
	put_key(file, "a.i64", MODEL_GGUF_I64);
	put_u64(file, 77);
	put_key(file, "a.f32", MODEL_GGUF_F32);
	put_f32(file, 0.5f);
	put_key(file, "a.nan", MODEL_GGUF_F32);
	put_u32(file, 0x7fc00000);
	put_key(file, "a.true", MODEL_GGUF_BOOL);
	put_u8(file, 1);
	put_key(file, "a.words", MODEL_GGUF_ARRAY);
	put_u32(file, MODEL_GGUF_STRING);
	put_u64(file, 3);
	put_text(file, "one");
	put_text(file, "");
	put_text(file, "three");
	put_key(file, "a.ints", MODEL_GGUF_ARRAY);
	put_u32(file, MODEL_GGUF_I32);
	put_u64(file, 2);
	put_u32(file, (uint32_t)-5);
	put_u32(file, 6);
	put_key(file, "a.floats", MODEL_GGUF_ARRAY);
	put_u32(file, MODEL_GGUF_F32);
	put_u64(file, 2);
	put_f32(file, 1.5f);
	put_f32(file, -2.5f);
	put_key(file, "a.empty", MODEL_GGUF_ARRAY);
	put_u32(file, MODEL_GGUF_STRING);
	put_u64(file, 0);
	put_tensor(file, "x", KERN_F32, 3, 2, 0);
	put_tensor(file, "y", KERN_Q8_0, 32, 2, 32);
	put_tensor(file, "z", KERN_F16, 5, 1, 128);
	pad(file, 32);
	for (int i = 0; i < 6; i++)
		put_f32(file, (float)i);
	pad(file, 32);
	put_zeros(file, 68);
	pad(file, 32);
	put_zeros(file, 10);
}

static void test_tensors_of_a_good_file(void **state)
{
	struct file file;
	struct model_gguf *gguf;
	const struct model_gguf_tensor *x, *y;

	(void)state;
	good_file(&file);
	assert_int_equal(model_gguf_open_memory(&gguf, file.bytes, file.size), 0);
	assert_int_equal(model_gguf_tensor_count(gguf), 3);
	x = model_gguf_tensor(gguf, "x");
	y = model_gguf_tensor(gguf, "y");
	assert_non_null(x);
	assert_int_equal(x->type, KERN_F32);
	assert_int_equal(x->dims, 2);
	assert_int_equal(x->dim[0], 3);
	assert_int_equal(x->dim[1], 2);
	assert_int_equal(x->dim[2], 1);
	assert_int_equal(x->size_bytes, 24);
	assert_true(((const float *)x->data)[5] == 5.0f);
	assert_int_equal(y->size_bytes, 68);
	assert_ptr_equal(y->data, (const unsigned char *)x->data + 32);
	assert_ptr_equal(model_gguf_tensor_at(gguf, 2), model_gguf_tensor(gguf, "z"));
	assert_null(model_gguf_tensor_at(gguf, 3));
	assert_null(model_gguf_tensor(gguf, "xy"));
	assert_null(model_gguf_tensor(gguf, ""));
	assert_false(model_gguf_damaged(gguf));
	model_gguf_close(gguf);
}

static void test_scalars(void **state)
{
	struct file file;
	struct model_gguf *gguf;
	struct model_text text;
	uint32_t u;
	float f;
	bool b = false;

	(void)state;
	good_file(&file);
	assert_int_equal(model_gguf_open_memory(&gguf, file.bytes, file.size), 0);
	assert_int_equal(model_gguf_u32(gguf, "a.u8", &u), 0);
	assert_int_equal(u, 200);
	assert_int_equal(model_gguf_u32(gguf, "a.i64", &u), 0);
	assert_int_equal(u, 77);
	assert_int_equal(model_gguf_u32(gguf, "a.none", &u), -ENOENT);
	assert_int_equal(model_gguf_u32(gguf, "a.i8", &u), -EBADMSG);
	assert_non_null(strstr(base_error_message(), "'a.i8' is -2"));
	assert_int_equal(model_gguf_u32(gguf, "a.u64", &u), -EBADMSG);
	assert_int_equal(model_gguf_u32(gguf, "a.f32", &u), -EBADMSG);
	assert_non_null(strstr(base_error_message(), "'a.f32' is f32, not a whole number"));
	assert_int_equal(model_gguf_u32(gguf, "a.words", &u), -EBADMSG);
	assert_int_equal(model_gguf_f32(gguf, "a.f32", &f), 0);
	assert_true(f == 0.5f);
	assert_int_equal(model_gguf_f32(gguf, "a.nan", &f), -EBADMSG);
	assert_int_equal(model_gguf_f32(gguf, "a.true", &f), -EBADMSG);
	assert_int_equal(model_gguf_bool(gguf, "a.true", &b), 0);
	assert_true(b);
	assert_int_equal(model_gguf_bool(gguf, "a.u8", &b), -EBADMSG);
	assert_int_equal(model_gguf_text(gguf, "general.architecture", &text), 0);
	assert_int_equal(text.len, 5);
	assert_memory_equal(text.bytes, "llama", 5);
	assert_int_equal(model_gguf_text(gguf, "a.u8", &text), -EBADMSG);
	model_gguf_close(gguf);
}

static void test_arrays(void **state)
{
	struct file file;
	struct model_gguf *gguf;
	struct model_text text;
	enum model_gguf_value type;
	uint64_t count, cursor = 0;
	int32_t ints[2];
	float floats[2];

	(void)state;
	good_file(&file);
	assert_int_equal(model_gguf_open_memory(&gguf, file.bytes, file.size), 0);
	assert_int_equal(model_gguf_array(gguf, "a.words", &type, &count), 0);
	assert_int_equal(type, MODEL_GGUF_STRING);
	assert_int_equal(count, 3);
	assert_int_equal(model_gguf_array_text(gguf, "a.words", &cursor, &text), 1);
	assert_memory_equal(text.bytes, "one", 3);
	assert_int_equal(model_gguf_array_text(gguf, "a.words", &cursor, &text), 1);
	assert_int_equal(text.len, 0);
	assert_int_equal(model_gguf_array_text(gguf, "a.words", &cursor, &text), 1);
	assert_int_equal(text.len, 5);
	assert_int_equal(model_gguf_array_text(gguf, "a.words", &cursor, &text), 0);
	assert_int_equal(model_gguf_array_text(gguf, "a.words", &cursor, &text), 0);
	cursor = 1000;
	assert_int_equal(model_gguf_array_text(gguf, "a.words", &cursor, &text), -EINVAL);
	cursor = 0;
	assert_int_equal(model_gguf_array_text(gguf, "a.empty", &cursor, &text), 0);
	assert_int_equal(model_gguf_array_text(gguf, "a.ints", &cursor, &text), -EBADMSG);
	assert_int_equal(model_gguf_array_text(gguf, "a.none", &cursor, &text), -ENOENT);
	assert_int_equal(model_gguf_array(gguf, "a.u8", &type, &count), -EBADMSG);
	assert_int_equal(model_gguf_array_i32(gguf, "a.ints", ints, 2), 0);
	assert_int_equal(ints[0], -5);
	assert_int_equal(ints[1], 6);
	assert_int_equal(model_gguf_array_i32(gguf, "a.ints", ints, 1), -ERANGE);
	assert_int_equal(model_gguf_array_i32(gguf, "a.floats", ints, 2), -EBADMSG);
	assert_int_equal(model_gguf_array_f32(gguf, "a.floats", floats, 2), 0);
	assert_true(floats[0] == 1.5f && floats[1] == -2.5f);
	assert_int_equal(model_gguf_array_f32(gguf, "a.ints", floats, 2), 0);
	assert_true(floats[0] == -5.0f);
	assert_int_equal(model_gguf_array_f32(gguf, "a.words", floats, 2), -ERANGE);
	assert_int_equal(model_gguf_array_f32(gguf, "a.words", floats, 3), -EBADMSG);
	model_gguf_close(gguf);
}

/* Every prefix of a good file is refused, and never read past its end (the sanitizers look on). */
static void test_every_truncation(void **state)
{
	struct file file;

	(void)state;
	good_file(&file);
	for (size_t size = 0; size < file.size; size++) {
		unsigned char *part = malloc(size + 1);
		struct model_gguf *gguf = NULL;

		assert_non_null(part);
		memcpy(part, file.bytes, size);
		if (model_gguf_open_memory(&gguf, part, size) != -EBADMSG)
			fail_msg("a file cut to %zu of %zu bytes was accepted", size, file.size);
		free(part);
	}
}

/* Any single byte may be anything: no crash, and whatever is accepted can be walked. */
static void test_every_byte_changed(void **state)
{
	static const unsigned char values[] = { 0x00, 0x01, 0x09, 0x7f, 0x80, 0xff };
	struct file file;

	(void)state;
	good_file(&file);
	for (size_t at = 0; at < file.size; at++) {
		unsigned char kept = file.bytes[at];

		for (size_t i = 0; i < sizeof(values); i++) {
			struct model_gguf *gguf = NULL;
			struct model_text text;
			uint64_t cursor = 0;

			file.bytes[at] = values[i];
			if (model_gguf_open_memory(&gguf, file.bytes, file.size) < 0)
				continue;
			while (model_gguf_array_text(gguf, "a.words", &cursor, &text) > 0)
				assert_true(text.len < file.size);
			model_gguf_close(gguf);
		}
		file.bytes[at] = kept;
	}
}

static void test_bad_headers(void **state)
{
	struct file file;

	(void)state;
	put_header(&file, 0, 0);
	file.bytes[0] = 'X';
	refused(&file, "not a GGUF file");
	put_header(&file, 0, 0);
	file.bytes[4] = 4;
	refused(&file, "version 4");
	put_header(&file, 0, 0);
	memcpy(file.bytes + 4, "\0\0\0\3", 4);
	refused(&file, "big-endian");
	put_header(&file, (uint64_t)1 << 63, 0);
	refused(&file, "claims 9223372036854775808 tensors");
	put_header(&file, 0, (uint64_t)1 << 63);
	refused(&file, "claims 9223372036854775808 keys");
	put_header(&file, 1, 0);
	refused(&file, "the name of tensor 0");
	put_header(&file, 0, 0);
	file.size = 20;
	refused(&file, "20 bytes are too few");
}

static void test_bad_keys(void **state)
{
	struct file file;

	(void)state;
	put_header(&file, 0, 1);
	put_u64(&file, (uint64_t)1 << 63);
	refused(&file, "ends inside the name of key 0");
	put_header(&file, 0, 1);
	put_key(&file, "", MODEL_GGUF_U8);
	put_u8(&file, 0);
	refused(&file, "has 0 bytes");
	put_header(&file, 0, 1);
	put_key(&file, "a\033[31m", MODEL_GGUF_U8);
	put_u8(&file, 0);
	refused(&file, "not printable");
	put_header(&file, 0, 1);
	put_key(&file, "k", 13);
	put_u64(&file, 0);
	refused(&file, "'k' has the unknown type 13");
	put_header(&file, 0, 2);
	put_key(&file, "k", MODEL_GGUF_U8);
	put_u8(&file, 0);
	put_key(&file, "k", MODEL_GGUF_U8);
	put_u8(&file, 0);
	refused(&file, "'k' appears twice");
	put_header(&file, 0, 1);
	put_key(&file, "k", MODEL_GGUF_BOOL);
	put_u8(&file, 2);
	refused(&file, "truth value is 0 or 1, not 2");
	put_header(&file, 0, 1);
	put_key(&file, "k", MODEL_GGUF_STRING);
	put_u64(&file, UINT64_MAX - 3);
	refused(&file, "its string reaches past the end");
	put_header(&file, 0, 1);
	put_key(&file, "general.alignment", MODEL_GGUF_U32);
	put_u32(&file, 24);
	refused(&file, "general.alignment is 24");
	put_header(&file, 0, 1);
	put_key(&file, "general.alignment", MODEL_GGUF_STRING);
	put_text(&file, "32");
	refused(&file, "'general.alignment' is text");
}

static void put_array(struct file *file, uint32_t type, uint64_t count)
{
	put_header(file, 0, 1);
	put_key(file, "k", MODEL_GGUF_ARRAY);
	put_u32(file, type);
	put_u64(file, count);
}

static void test_bad_arrays(void **state)
{
	struct file file;

	(void)state;
	put_array(&file, MODEL_GGUF_ARRAY, 1);
	put_u32(&file, MODEL_GGUF_U8);
	put_u64(&file, 0);
	refused(&file, "array of arrays");
	put_array(&file, 99, 1);
	refused(&file, "array of the unknown type 99");
	put_array(&file, MODEL_GGUF_U64, (uint64_t)1 << 61); /* 2^61 * 8 wraps to 0 */
	put_u64(&file, 0);
	refused(&file, "claims 2305843009213693952 elements");
	put_array(&file, MODEL_GGUF_STRING, (uint64_t)1 << 63);
	refused(&file, "claims 9223372036854775808 elements");
	put_array(&file, MODEL_GGUF_STRING, 2);
	put_text(&file, "fine");
	put_u64(&file, 1);
	refused(&file, "string 1 of 2 reaches past the end");
	put_array(&file, MODEL_GGUF_U8, 9);
	put_u64(&file, 0);
	refused(&file, "claims 9 elements of at least 1 bytes, but only 8 bytes");
}

/* One tensor "t" with the given description and `data` bytes behind it. */
static void put_one(struct file *file, uint32_t type, uint64_t columns, uint64_t rows, uint64_t offset, size_t data)
{
	put_header(file, 1, 0);
	put_tensor(file, "t", type, columns, rows, offset);
	pad(file, 32);
	put_zeros(file, data);
}

static void test_bad_tensors(void **state)
{
	struct file file;

	(void)state;
	put_one(&file, KERN_F32, 8, 1, 0, 28);
	refused(&file, "'t' ends 4 bytes past the end of the file");
	put_one(&file, KERN_F32, 8, 1, 0, 64);
	refused(&file, "32 bytes follow the last tensor");
	put_one(&file, KERN_F32, 8, 1, 4, 64);
	refused(&file, "offset 4 is not aligned to 32");
	put_one(&file, KERN_F32, 8, 1, 32, 64);
	refused(&file, "offset 32 leaves a hole");
	put_one(&file, 99, 8, 1, 0, 32);
	refused(&file, "type 99");
	put_one(&file, KERN_Q8_0, 40, 1, 0, 64);
	refused(&file, "rows of 40 elements are no whole Q8_0 blocks of 32");
	put_one(&file, KERN_F32, 0, 1, 0, 32);
	refused(&file, "dimension 0 is 0");
	put_one(&file, KERN_F32, (uint64_t)1 << 32, (uint64_t)1 << 32, 0, 32);
	refused(&file, "exceeds 64 bits");
	put_one(&file, KERN_F32, (uint64_t)1 << 31, (uint64_t)1 << 32, 0, 32);
	refused(&file, "larger than the file");
	put_one(&file, KERN_F32, (uint64_t)1 << 62, 1, 0, 32); /* times four wraps to 0 */
	refused(&file, "larger than the file");
	put_one(&file, KERN_F32, 8, 1, UINT64_MAX - 31, 32);
	refused(&file, "leaves a hole");
}

static void test_tensors_in_conflict(void **state)
{
	struct file file;

	(void)state;
	put_header(&file, 2, 0);
	put_tensor(&file, "first", KERN_F32, 16, 1, 0);
	put_tensor(&file, "second", KERN_F32, 16, 1, 32);
	pad(&file, 32);
	put_zeros(&file, 128);
	refused(&file, "'second' at offset 32 overlaps");
	put_header(&file, 2, 0);
	put_tensor(&file, "first", KERN_F32, 8, 1, 32);
	put_tensor(&file, "second", KERN_F32, 8, 1, 0);
	pad(&file, 32);
	put_zeros(&file, 64);
	refused(&file, "'first' at offset 32 leaves a hole");
	put_header(&file, 2, 0);
	put_tensor(&file, "same", KERN_F32, 8, 1, 0);
	put_tensor(&file, "same", KERN_F32, 8, 1, 32);
	pad(&file, 32);
	put_zeros(&file, 64);
	refused(&file, "'same' appears twice");
}

static void put_dims(struct file *file, uint32_t dims)
{
	put_header(file, 1, 0);
	put_text(file, "t");
	put_u32(file, dims);
	for (uint32_t i = 0; i < dims && i < 8; i++)
		put_u64(file, 1);
	put_u32(file, KERN_F32);
	put_u64(file, 0);
	pad(file, 32);
	put_zeros(file, 4);
}

static void test_bad_dimension_counts(void **state)
{
	struct file file;
	struct model_gguf *gguf;

	(void)state;
	put_dims(&file, 0);
	refused(&file, "has 0 dimensions");
	put_dims(&file, 5);
	refused(&file, "has 5 dimensions");
	put_dims(&file, UINT32_MAX);
	refused(&file, "has 4294967295 dimensions");
	put_dims(&file, 4);
	assert_int_equal(model_gguf_open_memory(&gguf, file.bytes, file.size), 0);
	model_gguf_close(gguf);
}

/* Many names, so that the table of names is really probed. */
static void test_many_names(void **state)
{
	struct file *file = malloc(sizeof(*file));
	struct model_gguf *gguf;
	char name[32];
	uint32_t value;

	(void)state;
	assert_non_null(file);
	put_header(file, 0, 300);
	for (uint32_t i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "k%u", i);
		put_key(file, name, MODEL_GGUF_U32);
		put_u32(file, i * i);
	}
	assert_int_equal(model_gguf_open_memory(&gguf, file->bytes, file->size), 0);
	for (uint32_t i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "k%u", i);
		assert_int_equal(model_gguf_u32(gguf, name, &value), 0);
		assert_int_equal(value, i * i);
	}
	assert_int_equal(model_gguf_key_count(gguf), 300);
	assert_int_equal(model_gguf_u32(gguf, "k300", &value), -ENOENT);
	model_gguf_close(gguf);
	free(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tensors_of_a_good_file),
		cmocka_unit_test(test_scalars),
		cmocka_unit_test(test_arrays),
		cmocka_unit_test(test_every_truncation),
		cmocka_unit_test(test_every_byte_changed),
		cmocka_unit_test(test_bad_headers),
		cmocka_unit_test(test_bad_keys),
		cmocka_unit_test(test_bad_arrays),
		cmocka_unit_test(test_bad_tensors),
		cmocka_unit_test(test_tensors_in_conflict),
		cmocka_unit_test(test_bad_dimension_counts),
		cmocka_unit_test(test_many_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
