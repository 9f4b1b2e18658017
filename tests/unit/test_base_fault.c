/*
 * Containment of SIGBUS: a file cut short under its mapping, many threads in one broken range, neighbours that
 * stay whole, and faults that are none of ours.
 */
#include "base/base_fault.h"

#include "base/base_error.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGES = 4, THREADS = 4 };

static size_t page_bytes;

struct mapping {
	int fd;
	unsigned char *memory;
	_Atomic int flag;
	int handle;
};

/* cmocka takes SIGBUS before each test; the handler under test takes it back, and then keeps it. */
static void take_signal(void)
{
	assert_int_equal(base_fault_install(), 0);
	assert_int_equal(base_fault_install(), 0);
}

/* Four pages of 0x5a, shared with a file that can be cut. */
static void map_file(struct mapping *mapping)
{
	unsigned char *memory;

	mapping->fd = memfd_create("cut", MFD_CLOEXEC);
	assert_true(mapping->fd >= 0);
	assert_int_equal(ftruncate(mapping->fd, (off_t)(PAGES * page_bytes)), 0);
	memory = mmap(NULL, PAGES * page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	memset(memory, 0x5a, PAGES * page_bytes);
	mapping->memory = memory;
	atomic_init(&mapping->flag, 0);
	mapping->handle = base_fault_add(memory, PAGES * page_bytes, &mapping->flag);
	assert_true(mapping->handle >= 0);
}

static void unmap_file(struct mapping *mapping)
{
	base_fault_remove(mapping->handle);
	munmap(mapping->memory, PAGES * page_bytes);
	close(mapping->fd);
}

static unsigned char look(const unsigned char *at)
{
	return *(const volatile unsigned char *)at;
}

static void test_cut_file_reads_as_zeros(void **state)
{
	struct mapping cut, whole;

	(void)state;
	take_signal();
	map_file(&cut);
	map_file(&whole);
	assert_int_equal(ftruncate(cut.fd, (off_t)page_bytes), 0);
	assert_int_equal(look(cut.memory), 0x5a);
	assert_int_equal(atomic_load(&cut.flag), 0);

	errno = 77;
	assert_int_equal(look(cut.memory + 2 * page_bytes + 5), 0);
	assert_int_equal(errno, 77);
	assert_int_equal(atomic_load(&cut.flag), 1);
	/* The whole range is gone, so that no half of it is believed. */
	assert_int_equal(look(cut.memory), 0);
	cut.memory[PAGES * page_bytes - 1] = 9;
	assert_int_equal(look(cut.memory + PAGES * page_bytes - 1), 9);

	assert_int_equal(look(whole.memory), 0x5a);
	assert_int_equal(atomic_load(&whole.flag), 0);
	unmap_file(&cut);
	unmap_file(&whole);
}

static void test_slot_is_used_again(void **state)
{
	(void)state;
	take_signal();
	for (int i = 0; i < 3; i++) {
		struct mapping cut;

		map_file(&cut);
		assert_int_equal(cut.handle, 0);
		assert_int_equal(ftruncate(cut.fd, 0), 0);
		assert_int_equal(look(cut.memory), 0);
		assert_int_equal(atomic_load(&cut.flag), 1);
		unmap_file(&cut);
	}
}

static void *sum_range(void *memory)
{
	uintptr_t sum = 0;

	for (size_t i = 0; i < PAGES * page_bytes; i += 64)
		sum += look((unsigned char *)memory + i);
	return (void *)sum;
}

static void test_many_threads_fault_at_once(void **state)
{
	(void)state;
	take_signal();
	for (int round = 0; round < 20; round++) {
		pthread_t threads[THREADS];
		struct mapping cut;

		map_file(&cut);
		assert_int_equal(ftruncate(cut.fd, 0), 0);
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, sum_range, cut.memory), 0);
		for (int i = 0; i < THREADS; i++) {
			void *sum;

			pthread_join(threads[i], &sum);
			assert_null(sum);
		}
		assert_int_equal(atomic_load(&cut.flag), 1);
		unmap_file(&cut);
	}
}

static void test_table_is_bounded(void **state)
{
	static int handles[BASE_FAULT_RANGES];
	unsigned char *memory = mmap(NULL, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	_Atomic int flag = 0;

	(void)state;
	for (int i = 0; i < BASE_FAULT_RANGES; i++) {
		handles[i] = base_fault_add(memory, page_bytes, &flag);
		assert_int_equal(handles[i], i);
	}
	assert_int_equal(base_fault_add(memory, page_bytes, &flag), -ENOSPC);
	assert_true(strlen(base_error_message()) > 0);
	for (int i = 0; i < BASE_FAULT_RANGES; i++)
		base_fault_remove(handles[i]);
	assert_int_equal(base_fault_add(memory + 1, page_bytes, &flag), -EINVAL);
	assert_int_equal(base_fault_add(memory, 0, &flag), -EINVAL);
	base_fault_remove(-1);
	base_fault_remove(BASE_FAULT_RANGES);
	munmap(memory, page_bytes);
}

/* Runs break_it in a child and returns how the child ended. */
static int ending_of(void (*break_it)(void))
{
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		const struct rlimit no_core = {0, 0};

		setrlimit(RLIMIT_CORE, &no_core);
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
		signal(SIGBUS, SIG_DFL);
		if (base_fault_install() == 0)
			break_it();
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static bool died_of_sigbus(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

static void fault_outside(void)
{
	struct mapping cut;

	map_file(&cut);
	base_fault_remove(cut.handle);
	if (ftruncate(cut.fd, 0) == 0)
		look(cut.memory);
}

static void fault_inside(void)
{
	struct mapping cut;

	map_file(&cut);
	if (ftruncate(cut.fd, 0) == 0)
		look(cut.memory);
}

static void send_signal(void)
{
	kill(getpid(), SIGBUS);
}

static void test_other_faults_keep_their_action(void **state)
{
	(void)state;
	assert_int_equal(ending_of(fault_inside), 0);
	assert_true(died_of_sigbus(ending_of(fault_outside)));
	assert_true(died_of_sigbus(ending_of(send_signal)));
}


int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_file_reads_as_zeros),
		cmocka_unit_test(test_slot_is_used_again),
		cmocka_unit_test(test_many_threads_fault_at_once),
		cmocka_unit_test(test_table_is_bounded),
		cmocka_unit_test(test_other_faults_keep_their_action),
	};

	page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
