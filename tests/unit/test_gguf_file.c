/*
 * GGUF files on disk: what the writer writes the reader reads, the writer refuses to leave half a file, and a file
 * that loses bytes under its mapping is known as damaged while everything else goes on.
 */
#include "model/model_gguf_write.h"

#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"

static char folder[] = "/tmp/attnd-gguf-XXXXXX";
static char path[64], part_path[80];

static int make_folder(void **state)
{
	(void)state;
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/m.gguf", folder);
	snprintf(part_path, sizeof(part_path), "%s.part", path);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(folder);
}

static struct model_text text_of(const char *text)
{
	return (struct model_text){ text, strlen(text) };
}

/* A file with `rows` rows of 1024 floats in its second tensor. */
static struct model_gguf_writer *begin_file(uint64_t rows)
{
	static const int32_t types[3] = { 1, -1, 6 };
	static const float scores[2] = { 0.25f, -8.0f };
	struct model_gguf_writer *writer;
	uint64_t small[1] = { 3 }, large[2] = { 1024, rows };

	assert_int_equal(model_gguf_writer_create(&writer, path), 0);
	model_gguf_put_text(writer, "general.architecture", "llama", 5);
	model_gguf_put_u32(writer, "k.u32", 4000000000u);
	model_gguf_put_f32(writer, "k.f32", 1e-5f);
	model_gguf_put_bool(writer, "k.bool", true);
	model_gguf_put_array_i32(writer, "k.i32s", types, 3);
	model_gguf_put_array_f32(writer, "k.f32s", scores, 2);
	model_gguf_put_array_text(writer, "k.texts", 2);
	model_gguf_put_element(writer, "a\0b", 3);
	model_gguf_put_element(writer, "", 0);
	model_gguf_put_tensor(writer, text_of("small"), KERN_F32, 1, small);
	model_gguf_put_tensor(writer, text_of("large"), KERN_F32, 2, large);
	return writer;
}

static void write_file(uint64_t rows)
{
	struct model_gguf_writer *writer = begin_file(rows);
	float small[3] = { 1, 2, 3 }, row[1024];

	assert_int_equal(model_gguf_writer_begin(writer), 0);
	assert_int_equal(model_gguf_writer_data(writer, small, sizeof(small)), 0);
	for (uint64_t r = 0; r < rows; r++) {
		for (int i = 0; i < 1024; i++)
			row[i] = (float)(r * 1024 + (uint64_t)i);
		assert_int_equal(model_gguf_writer_data(writer, row, 100), 0);
		assert_int_equal(model_gguf_writer_data(writer, (char *)row + 100, sizeof(row) - 100), 0);
	}
	assert_int_equal(model_gguf_writer_finish(writer), 0);
	model_gguf_writer_destroy(writer);
	assert_int_equal(access(part_path, F_OK), -1);
}

static void test_round_trip(void **state)
{
	struct model_gguf *gguf;
	struct model_text text;
	uint64_t cursor = 0;
	uint32_t u;
	float f, scores[2];
	int32_t types[3];
	const float *large;

	(void)state;
	write_file(4);
	assert_int_equal(model_gguf_open(&gguf, path), 0);
	assert_int_equal(model_gguf_u32(gguf, "k.u32", &u), 0);
	assert_int_equal(u, 4000000000u);
	assert_int_equal(model_gguf_f32(gguf, "k.f32", &f), 0);
	assert_true(f == 1e-5f);
	assert_int_equal(model_gguf_array_i32(gguf, "k.i32s", types, 3), 0);
	assert_int_equal(types[1], -1);
	assert_int_equal(model_gguf_array_f32(gguf, "k.f32s", scores, 2), 0);
	assert_true(scores[1] == -8.0f);
	assert_int_equal(model_gguf_array_text(gguf, "k.texts", &cursor, &text), 1);
	assert_int_equal(text.len, 3);
	assert_memory_equal(text.bytes, "a\0b", 3);
	assert_int_equal(model_gguf_tensor(gguf, "small")->dims, 1);
	large = model_gguf_tensor(gguf, "large")->data;
	assert_true(large[4095] == 4095.0f);
	model_gguf_close(gguf);
}

static void test_copied_keys(void **state)
{
	struct model_gguf *gguf, *copy;
	struct model_gguf_writer *writer;
	static char copy_path[64];

	(void)state;
	write_file(1);
	assert_int_equal(model_gguf_open(&gguf, path), 0);
	snprintf(copy_path, sizeof(copy_path), "%s/copy.gguf", folder);
	assert_int_equal(model_gguf_writer_create(&writer, copy_path), 0);
	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++)
		model_gguf_put_key(writer, model_gguf_key_at(gguf, i));
	assert_int_equal(model_gguf_writer_begin(writer), 0);
	assert_int_equal(model_gguf_writer_finish(writer), 0);
	model_gguf_writer_destroy(writer);
	assert_int_equal(model_gguf_open(&copy, copy_path), 0);
	assert_int_equal(model_gguf_key_count(copy), model_gguf_key_count(gguf));
	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++) {
		const struct model_gguf_key *a = model_gguf_key_at(gguf, i), *b = model_gguf_key_at(copy, i);

		assert_int_equal(a->type, b->type);
		assert_int_equal(a->raw.len, b->raw.len);
		assert_memory_equal(a->raw.bytes, b->raw.bytes, a->raw.len);
	}
	model_gguf_close(copy);
	model_gguf_close(gguf);
	unlink(copy_path);
}

static void test_writer_refuses(void **state)
{
	struct model_gguf_writer *writer = begin_file(1);
	float small[3] = { 0 };
	unsigned char too_much[5000] = { 0 };
	uint64_t odd[1] = { 33 };

	(void)state;
	unlink(path);
	assert_int_equal(model_gguf_writer_begin(writer), 0);
	assert_int_equal(model_gguf_writer_data(writer, small, sizeof(small)), 0);
	assert_int_equal(model_gguf_writer_finish(writer), -EINVAL);
	model_gguf_writer_destroy(writer);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(access(part_path, F_OK), -1);

	writer = begin_file(1);
	assert_int_equal(model_gguf_writer_begin(writer), 0);
	assert_int_equal(model_gguf_writer_data(writer, too_much, sizeof(too_much)), -EINVAL);
	model_gguf_writer_destroy(writer);

	writer = begin_file(1);
	model_gguf_put_array_text(writer, "short", 2);
	assert_int_equal(model_gguf_writer_begin(writer), -EINVAL);
	model_gguf_writer_destroy(writer);

	writer = begin_file(1);
	model_gguf_put_tensor(writer, text_of("odd"), KERN_Q8_0, 1, odd);
	assert_int_equal(model_gguf_writer_begin(writer), -EINVAL);
	model_gguf_writer_destroy(writer);
}

/* Half of the file goes away after it was opened: reads see zeros, the flag says so, the process lives. cmocka puts its
 * own handler on SIGBUS, so this runs in a process of its own; the exit status says which step failed. */
static int truncate_while_mapped(void)
{
	struct model_gguf *gguf;
	const volatile float *large;

	if (model_gguf_open(&gguf, path) < 0)
		return 1;
	large = model_gguf_tensor(gguf, "large")->data;
	if (large[65535] != 65535.0f || model_gguf_damaged(gguf))
		return 2;
	if (truncate(path, 4096) < 0)
		return 3;
	if (large[65535] != 0.0f || !model_gguf_damaged(gguf))
		return 4;
	model_gguf_close(gguf);
	return 0;
}

static void test_truncated_while_mapped(void **state)
{
	int status;
	pid_t child;

	(void)state;
	write_file(64);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		signal(SIGBUS, SIG_DFL);
		_exit(truncate_while_mapped());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void test_what_is_no_file(void **state)
{
	struct model_gguf *gguf;
	int fd;

	(void)state;
	assert_int_equal(model_gguf_open(&gguf, "/nowhere/at/all.gguf"), -ENOENT);
	assert_non_null(strstr(base_error_message(), "/nowhere/at/all.gguf: No such file"));
	assert_int_equal(model_gguf_open(&gguf, folder), -EINVAL);
	assert_non_null(strstr(base_error_message(), "not an ordinary file"));
	assert_int_equal(model_gguf_open(&gguf, "/dev/zero"), -EINVAL);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(model_gguf_open(&gguf, path), -EINVAL);
	unlink(path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(model_gguf_open(&gguf, path), -EBADMSG);
	assert_non_null(strstr(base_error_message(), "0 bytes are too few"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_truncated_while_mapped), /* first: it installs the handler in its child */
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_copied_keys),
		cmocka_unit_test(test_writer_refuses),
		cmocka_unit_test(test_what_is_no_file),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
