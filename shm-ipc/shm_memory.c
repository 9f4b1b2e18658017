/*
 * Memory that the daemon makes and hands out. See the header; the daemon's control role, and clients when they attach.
 */
#include "shm-ipc/shm_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base_error.h"

enum {
	MFD_NO_EXEC_SEAL = 8,      /* MFD_NOEXEC_SEAL, Linux 6.3 */
	MFD_HUGE_2M = 21 << 26,    /* MFD_HUGE_2MB */
	MADV_POPULATE_FOR_WRITE = 23, /* MADV_POPULATE_WRITE, Linux 5.14 */
	NODES_MAX = 64,
};

/* ---- the daemon's side --------------------------------------------------------------------------- */

/* A sealable file of this size. MFD_NOEXEC_SEAL keeps newer kernels from warning; older ones
 * refuse it. */
static int file_create(uint64_t size_bytes, bool huge, mode_t mode)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2M : 0);
	int fd = memfd_create("attnd", flags | MFD_NO_EXEC_SEAL);
	int error;

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("attnd", flags);
	if (fd < 0)
		return base_fail(errno, "memfd_create: %s", strerror(errno));
	if (fchmod(fd, mode) == 0 && ftruncate(fd, (off_t)size_bytes) == 0)
		return fd;
	error = errno;
	close(fd);
	return base_fail(error, "memfd of %llu bytes: %s", (unsigned long long)size_bytes,
		strerror(error));
}

/* Memory of other nodes is slower, not wrong: what the kernel says does not matter. */
static void prefer_node(void *memory, uint64_t size_bytes, int node)
{
	unsigned long mask = 0;

	if (node < 0 || node >= NODES_MAX)
		return;
	mask = 1UL << node;
	(void)syscall(SYS_mbind, memory, size_bytes, MPOL_PREFERRED, &mask, NODES_MAX + 1, 0);
}

/* Every page is there before the client is: fallocate fails cleanly where touching would kill. */
static int prefault(int fd, unsigned char *memory, uint64_t size_bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (fallocate(fd, 0, 0, (off_t)size_bytes))
		return base_fail(errno, "no memory for a segment of %llu bytes: %s",
			(unsigned long long)size_bytes, strerror(errno));
	if (madvise(memory, size_bytes, MADV_POPULATE_FOR_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return base_fail(ENOMEM, "no memory for a segment of %llu bytes: %s",
			(unsigned long long)size_bytes, strerror(errno));
	for (uint64_t i = 0; i < size_bytes; i += page)
		((volatile unsigned char *)memory)[i] = 0;
	return 0;
}

int shm_memory_create(unsigned char **memory, uint64_t size_bytes, bool huge, mode_t mode, int node)
{
	int fd = file_create(size_bytes, huge, mode);
	void *mapped;
	int error;

	if (fd < 0)
		return fd;
	mapped = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED) {
		error = base_fail(errno, "mapping a segment of %llu bytes: %s",
			(unsigned long long)size_bytes, strerror(errno));
		close(fd);
		return error;
	}
	prefer_node(mapped, size_bytes, node);
	error = prefault(fd, mapped, size_bytes);
	if (error) {
		munmap(mapped, size_bytes);
		close(fd);
		return error;
	}
	*memory = mapped;
	return fd;
}

int shm_memory_seal(int fd, unsigned seals)
{
	if (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return base_fail(errno, "sealing a segment: %s", strerror(errno));
	return 0;
}

int shm_memory_read_only(int fd)
{
	char path[32];
	int read_only, error;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	read_only = open(path, O_RDONLY | O_CLOEXEC);
	error = errno;
	close(fd);
	if (read_only < 0)
		return base_fail(error, "reopening a segment read-only through %s: %s (is /proc mounted?)",
			path, strerror(error));
	return read_only;
}

/* ---- the reader's side --------------------------------------------------------------------------- */

int shm_memory_map(unsigned char **memory, int fd, uint64_t size_bytes, int seals, int protection)
{
	struct stat status;
	void *mapped;

	if (fstat(fd, &status))
		return base_fail(errno, "asking for a segment's size: %s", strerror(errno));
	if (!S_ISREG(status.st_mode) || status.st_size < 0 || (uint64_t)status.st_size != size_bytes)
		return base_fail(EPROTO, "a segment has %lld bytes; the daemon said %llu",
			(long long)status.st_size, (unsigned long long)size_bytes);
	if ((fcntl(fd, F_GET_SEALS) & seals) != seals)
		return base_fail(EPROTO, "a segment lacks seals: it could shrink under our feet");
	mapped = mmap(NULL, size_bytes, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (mapped == MAP_FAILED)
		return base_fail(errno, "mapping a segment of %llu bytes: %s", (unsigned long long)size_bytes,
			strerror(errno));
	*memory = mapped;
	return 0;
}
