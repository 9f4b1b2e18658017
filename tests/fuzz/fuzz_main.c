/*
 * Runs a fuzz target without libFuzzer: every file of its corpus, then seeded mutations of them, the same ones
 * each time. Linked to each tests/fuzz/fuzz_NAME.c, which has LLVMFuzzerTestOneInput.
 *
 *   fuzz_NAME          the corpus in tests/fuzz/corpus/NAME, then FUZZ_RUNS mutations from FUZZ_SEED, for FUZZ_SECONDS at most
 *   fuzz_NAME FILE...  these inputs alone, to repeat a failure
 *
 * The inputs run in a child. When it dies, the parent knows from a shared counter which input it was, makes it
 * again, keeps it in a file and says how to repeat it.
 *
 * Limits: 256 corpus files, inputs of 64 KiB, 15 seconds of mutations.
 */
#include "base/base_rand.h"

#include <dirent.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CORPUS_FILES = 256, INPUT_BYTES = 64 << 10, RUNS = 20000, SECONDS = 15, EDITS = 8, KEPT_BYTES = 16 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

struct input {
	uint8_t *bytes;
	size_t size;
};

/* What the parent sees of the child's progress. */
struct progress {
	_Atomic uint64_t corpus_done;
	_Atomic uint64_t mutations_done;
};

static struct input corpus[CORPUS_FILES];
static size_t corpus_count;
static struct progress *progress;

static bool read_input(const char *path, struct input *input)
{
	FILE *file = fopen(path, "rb");

	if (!file)
		return false;
	input->bytes = malloc(INPUT_BYTES);
	input->size = input->bytes ? fread(input->bytes, 1, INPUT_BYTES, file) : 0;
	fclose(file);
	return input->bytes != NULL;
}

static int by_name(const struct dirent **left, const struct dirent **right)
{
	return strcmp((*left)->d_name, (*right)->d_name);
}

/* Sorted, so that a mutation's number means the same input on every machine. */
static void read_corpus(const char *name)
{
	char folder[256], path[600];
	struct dirent **entries;
	int count;

	snprintf(folder, sizeof(folder), "tests/fuzz/corpus/%s", name);
	count = scandir(folder, &entries, NULL, by_name);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.' && corpus_count < CORPUS_FILES &&
			read_input(path, &corpus[corpus_count]))
			corpus_count++;
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
}

/* The target gets memory of exactly the input's size, so that a sanitizer sees one byte too many. */
static void run_input(const uint8_t *bytes, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	memcpy(copy, bytes, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

/* Numbers that sit at the edges of types and limits. */
static uint64_t edge_number(uint64_t *seed)
{
	static const uint64_t edges[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000,
		0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000,
		0xffffffffffffffff, 0xfffffffffffffff0};

	return edges[base_rand_below(seed, sizeof(edges) / sizeof(edges[0]))];
}

static void overwrite_number(struct input *input, uint64_t *seed)
{
	size_t width = (size_t)1 << base_rand_below(seed, 4);
	uint64_t number = base_rand_below(seed, 2) ? edge_number(seed) : base_rand_next(seed);

	if (input->size >= width)
		memcpy(input->bytes + base_rand_below(seed, input->size - width + 1), &number, width);
}

static void add_to_byte(struct input *input, uint64_t *seed)
{
	if (input->size)
		input->bytes[base_rand_below(seed, input->size)] += (uint8_t)(base_rand_below(seed, 33) - 16);
}

static void flip_bit(struct input *input, uint64_t *seed)
{
	if (input->size)
		input->bytes[base_rand_below(seed, input->size)] ^= (uint8_t)(1u << base_rand_below(seed, 8));
}

static void cut_end(struct input *input, uint64_t *seed)
{
	input->size = base_rand_below(seed, input->size + 1);
}

static void remove_part(struct input *input, uint64_t *seed)
{
	size_t from = base_rand_below(seed, input->size + 1);
	size_t size = base_rand_below(seed, input->size - from + 1);

	memmove(input->bytes + from, input->bytes + from + size, input->size - from - size);
	input->size -= size;
}

/* Puts a part of some corpus file (or noise, where there is none) into the input. */
static void insert_part(struct input *input, uint64_t *seed)
{
	uint8_t noise[64];
	struct input part = {noise, sizeof(noise)};
	size_t from, size, at = base_rand_below(seed, input->size + 1);

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)base_rand_next(seed);
	if (corpus_count && base_rand_below(seed, 4))
		part = corpus[base_rand_below(seed, corpus_count)];
	from = base_rand_below(seed, part.size + 1);
	size = base_rand_below(seed, part.size - from + 1);
	if (size > INPUT_BYTES - input->size)
		size = INPUT_BYTES - input->size;
	memmove(input->bytes + at + size, input->bytes + at, input->size - at);
	memcpy(input->bytes + at, part.bytes + from, size);
	input->size += size;
}

/* Mutation number n: a function of n and the seed, and of nothing that ran before. */
static void make_mutation(uint64_t n, uint64_t first_seed, struct input *input)
{
	static void (*const edits[])(struct input *, uint64_t *) = {overwrite_number, overwrite_number,
		add_to_byte, flip_bit, flip_bit, cut_end, remove_part, insert_part};
	uint64_t seed = base_mix64(first_seed ^ base_mix64(n + 1));
	uint64_t count = 1 + base_rand_below(&seed, EDITS);

	input->size = 0;
	if (corpus_count) {
		const struct input *from = &corpus[base_rand_below(&seed, corpus_count)];

		memcpy(input->bytes, from->bytes, from->size);
		input->size = from->size;
	} else {
		insert_part(input, &seed);
	}
	while (count--)
		edits[base_rand_below(&seed, sizeof(edits) / sizeof(edits[0]))](input, &seed);
}

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
	const char *text = getenv(variable);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void run_all(uint64_t runs, uint64_t seed)
{
	static uint8_t bytes[INPUT_BYTES];
	struct input input = {bytes, 0};
	time_t end = time(NULL) + (time_t)number_from("FUZZ_SECONDS", SECONDS);

	for (size_t i = 0; i < corpus_count; i++) {
		run_input(corpus[i].bytes, corpus[i].size);
		progress->corpus_done = i + 1;
	}
	for (uint64_t n = 0; n < runs && time(NULL) <= end; n++) {
		make_mutation(n, seed, &input);
		run_input(input.bytes, input.size);
		progress->mutations_done = n + 1;
	}
}

/* A target makes all it needs for each input anew. Memory that was given back stays the process's, so that the next input need not have it
 * from the kernel again, page by page. */
static void keep_memory(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, KEPT_BYTES);
	(void)mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
}

/* Keeps the input that was running when the child died. */
static void keep_failure(const char *program, uint64_t seed)
{
	static uint8_t bytes[INPUT_BYTES];
	struct input input = {bytes, 0};
	char path[] = "/tmp/attnd-fuzz-XXXXXX";
	int fd = mkstemp(path);

	if (progress->corpus_done < corpus_count)
		input = corpus[progress->corpus_done];
	else
		make_mutation(progress->mutations_done, seed, &input);
	if (fd < 0 || write(fd, input.bytes, input.size) != (ssize_t)input.size)
		printf("# the input could not be kept\n");
	printf("# repeat with: %s %s\n", program, path);
}

static int run_in_child(const char *program, uint64_t runs, uint64_t seed)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		run_all(runs, seed);
		exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 1;
	if (status == 0) {
		printf("ok 1 - %zu corpus files and %llu mutations\n", corpus_count,
			(unsigned long long)progress->mutations_done);
		return 0;
	}
	if (WIFSIGNALED(status))
		printf("not ok 1 - died of signal %d\n", WTERMSIG(status));
	else
		printf("not ok 1 - exit status %d\n", WEXITSTATUS(status));
	keep_failure(program, seed);
	return 1;
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];

	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	keep_memory();
	for (int i = 1; i < argc; i++) {
		struct input input;

		if (!read_input(argv[i], &input)) {
			fprintf(stderr, "%s: cannot read %s\n", name, argv[i]);
			return 1;
		}
		run_input(input.bytes, input.size);
		free(input.bytes);
	}
	if (argc > 1)
		return 0;
	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED)
		return 1;
	read_corpus(strncmp(name, "fuzz_", 5) == 0 ? name + 5 : name);
	return run_in_child(argv[0], number_from("FUZZ_RUNS", RUNS), number_from("FUZZ_SEED", 1));
}
