/*
 * What the tests of whole models share; see model_rig.h.
 */
#include "tests/kernels/model_rig.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"

const char *model_rig_data(const char *name)
{
	static char path[4096];
	const char *folder = getenv("ATTND_DATA");

	snprintf(path, sizeof(path), "%s/%s", folder ? folder : "../shared", name);
	return access(path, R_OK) == 0 ? path : NULL;
}

/* ---- attnquant -------------------------------------------------------------------------------------------- */

/* The build's folder: as the runner says, else three levels above this program. */
static const char *build_folder(void)
{
	static char path[4096];
	const char *said = getenv("ATTND_BUILD");
	ssize_t len;

	if (said)
		return said;
	len = readlink("/proc/self/exe", path, sizeof(path) - 1);
	assert_true(len > 0);
	path[len] = '\0';
	for (int i = 0; i < 3; i++)
		*strrchr(path, '/') = '\0';
	return path;
}

int model_rig_attnquant(const char *argument, ...)
{
	char program[4200];
	const char *arguments[12] = { program };
	int count = 1, status;
	va_list list;
	pid_t child;

	snprintf(program, sizeof(program), "%s/attnquant", build_folder());
	va_start(list, argument);
	for (; argument && count < 11; argument = va_arg(list, const char *))
		arguments[count++] = argument;
	va_end(list);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execv(program, (char **)(uintptr_t)arguments);
		_exit(127);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static char folder[64];

static void remove_folder(void)
{
	DIR *list = opendir(folder);
	struct dirent *entry;

	while (list && (entry = readdir(list)))
		unlinkat(dirfd(list), entry->d_name, 0);
	if (list)
		closedir(list);
	rmdir(folder);
}

const char *model_rig_folder(void)
{
	if (folder[0] == '\0') {
		strcpy(folder, "/tmp/attnd-model-XXXXXX");
		assert_non_null(mkdtemp(folder));
		atexit(remove_folder);
	}
	return folder;
}

const char *model_rig_path(const char *name)
{
	static char paths[8][256];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", model_rig_folder(), name);
	return path;
}

/* ---- a model and its session ------------------------------------------------------------------------------ */

static int run(struct kern_backend *backend, const struct kern_work *work)
{
	kern_ticket ticket;
	int rc = backend->ops->submit(backend, work, &ticket);

	while (rc == 0)
		rc = backend->ops->poll(backend, ticket);
	return rc;
}

void model_rig_open(struct model_rig *rig, const char *path, enum kern_kv format, uint32_t workers)
{
	const struct kern_cpu_options cpu = { .struct_bytes = sizeof(cpu), .workers = workers, .node = -1 };
	const struct model_options options = { .struct_bytes = sizeof(options), .max_rows = MODEL_RIG_ROWS,
		.max_out_rows = MODEL_RIG_ROWS };

	memset(rig, 0, sizeof(*rig));
	if (kern_cpu_create(&rig->backend, &cpu) != 0)
		fail_msg("%s", base_error_message());
	if (model_load(&rig->model, path, rig->backend, &options) != 0)
		fail_msg("%s", base_error_message());
	rig->vocab = model_info(rig->model)->vocab;
	rig->kv = model_program(rig->model)->kv;
	rig->kv.k = rig->kv.v = format;
	assert_int_equal(kern_kv_init(&rig->kv), 0);
	for (size_t i = 0; i < sizeof(rig->blocks) / sizeof(*rig->blocks); i++) {
		rig->blocks[i] = rig->backend->ops->alloc(rig->backend, rig->kv.block_bytes[i > 0], "a test's KV cache");
		assert_non_null(rig->blocks[i]);
	}
}

void model_rig_close(struct model_rig *rig)
{
	for (size_t i = 0; i < sizeof(rig->blocks) / sizeof(*rig->blocks); i++)
		rig->backend->ops->free(rig->backend, rig->blocks[i]);
	model_destroy(rig->model);
	rig->backend->ops->destroy(rig->backend);
}

void model_rig_restart(struct model_rig *rig)
{
	rig->position = 0;
}

void model_rig_step(struct model_rig *rig, const uint32_t *tokens, uint32_t count, bool last_only, float *logits)
{
	const struct kern_seq seq = { .rows = count, .position = rig->position, .blocks = rig->blocks, .kv = &rig->kv };
	struct kern_out outs[MODEL_RIG_ROWS];
	uint32_t first = last_only ? count - 1 : 0;
	struct kern_work work = { .kind = KERN_WORK_STEP, .step = { .program = model_program(rig->model), .rows = count,
		.seq_count = 1, .out_count = count - first, .tokens = tokens, .seqs = &seq, .outs = outs } };

	assert_true(count > 0 && count <= MODEL_RIG_ROWS && rig->position + count <= MODEL_RIG_TOKENS);
	for (uint32_t i = first; i < count; i++)
		outs[i - first] = (struct kern_out){ .row = i, .logits = logits + (size_t)(i - first) * rig->vocab };
	assert_int_equal(run(rig->backend, &work), 1);
	rig->position += count;
}
