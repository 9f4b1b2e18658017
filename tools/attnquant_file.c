/*
 * Files as bytes, paths, and the progress bar of attnquant. One thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_text.h"

int attnquant_file_open(struct attnquant_file *file, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	void *bytes;

	if (fd < 0)
		return base_fail(errno, "%s: %s", path, strerror(errno));
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
		close(fd);
		return base_fail(EINVAL, "%s: not an ordinary file, or empty", path);
	}
	bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (bytes == MAP_FAILED)
		return base_fail(errno, "%s: cannot be mapped: %s", path, strerror(errno));
	file->bytes = bytes;
	file->size = (size_t)status.st_size;
	return 0;
}

void attnquant_file_close(struct attnquant_file *file)
{
	if (file->bytes)
		munmap((void *)(uintptr_t)file->bytes, file->size);
	file->bytes = NULL;
}

bool attnquant_is_folder(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool attnquant_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

char *attnquant_join(const char *folder, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		tool_die(TOOL_FAILED, "out of memory");
	return path;
}

/* ---- progress ------------------------------------------------------------------------------------------ */

enum { BAR_COLUMNS = 30 };

void attnquant_progress_begin(struct attnquant_progress *progress, const char *what, uint64_t total)
{
	progress->what = what;
	progress->total = total;
	progress->shown_percent = isatty(STDERR_FILENO) ? -1 : 101;
}

void attnquant_progress_at(struct attnquant_progress *progress, uint64_t done)
{
	int percent = progress->total ? (int)((double)done / (double)progress->total * 100) : 100;
	char bar[BAR_COLUMNS + 1], done_text[TOOL_NUMBER_BYTES], total_text[TOOL_NUMBER_BYTES];
	int filled = percent * BAR_COLUMNS / 100;

	if (percent <= progress->shown_percent)
		return;
	progress->shown_percent = percent;
	for (int i = 0; i < BAR_COLUMNS; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[BAR_COLUMNS] = '\0';
	fprintf(stderr, "\r%s [%s] %3d %%  %s of %s ", progress->what, bar, percent,
		tool_bytes(done_text, done), tool_bytes(total_text, progress->total));
}

void attnquant_progress_end(struct attnquant_progress *progress)
{
	if (progress->shown_percent >= 0 && progress->shown_percent <= 100)
		fputs("\r\033[K", stderr);
}
