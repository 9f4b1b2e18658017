/*
 * Sealed files without a name (memfd): made, mapped, sealed and handed out by the daemon, checked and mapped by who gets
 * them. Control role and client's thread; all of it makes system calls.
 *
 * The order of making matters: size, map writable, prefault, then seal, because a file that is sealed against future writing can no
 * longer be mapped writable, and only then hand out.
 */
#ifndef SHM_MEMORY_H
#define SHM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A mapped, prefaulted, unsealed file. Its descriptor (>= 0), or -errno with a message and nothing left behind. node < 0: any. */
int shm_memory_create(unsigned char **memory, uint64_t size_bytes, bool huge, mode_t mode, int node);
/* Against shrinking, growing and further seals, and what else `seals` says. */
int shm_memory_seal(int fd, unsigned seals);
/* The same file through a descriptor that cannot write; consumes fd. The new descriptor, or -errno with a message. */
int shm_memory_read_only(int fd);

/* Maps a file that somebody else made, after making sure that it has this size and can never have another. -EPROTO, -errno. */
int shm_memory_map(unsigned char **memory, int fd, uint64_t size_bytes, int seals, int protection);

#endif
