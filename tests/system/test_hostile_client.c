/*
 * Time limit: 300 s
 *
 * What a client can do to others with everything it can write: random words over its whole writable
 * segment while the daemon reads it, holes punched into it, a doorbell that is filled, reset and
 * made blocking. Others are served throughout.
 *
 * The hostile side speaks the attach protocol itself (shm_connect), so that no check of the client
 * library stands in its way.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_rand.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_bell.h"
#include "tests/system/sys_daemon.h"

#define RECORDS UINT64_C(10000000)
#define RECORDS_SANITIZED UINT64_C(500000)

enum { WILD_CLIENTS = 40 };

static const char *const options[] = { "kv.pool=128M", "limits.tokens=512", "placement.workers=0",
	"placement.spin_us=50", "daemon.log_level=warn", NULL };

static void hostile_connect(const struct sys_daemon *daemon, struct shm_connection *connection)
{
	const struct shm_hello hello = { .magic = SHM_MAGIC,
		.version = SHM_VERSION,
		.struct_bytes = sizeof(hello),
		.arena_bytes = 1 << 20,
		.submission_slots = 256,
		.completion_slots = 1024 };

	if (shm_connect(connection, daemon->address + 4, &hello, 5000000000))
		_exit(1);
}

/* ---- random words --------------------------------------------------------------------- */

/* A record that is plausible enough to get far: valid version and op, everything else half random.
 */
static void plausible(struct attnd_request *request, uint64_t *seed)
{
	uint64_t *words = (uint64_t *)(void *)request;

	for (int i = 0; i < 8; i++)
		words[i] = base_rand_next(seed) >> base_rand_below(seed, 64);
	request->version = base_rand_below(seed, 16) ? ATTND_VERSION : (uint8_t)words[1];
	request->op = (uint8_t)base_rand_below(seed, ATTND_OP_END + 1);
	request->flags &= base_rand_below(seed, 4) ? 0 : 0xff;
	request->reserved = base_rand_below(seed, 16) ? 0 : 1;
	request->priority_class %= 4;
	request->in_offset %= 20000;
	request->in_bytes %= 5000;
	request->out_offset %= 20000;
	request->out_capacity %= 5000;
	request->argument %= 600;
	if (base_rand_below(seed, 2))
		request->deadline_ns = 0;
}

struct scribble {
	_Atomic uint64_t *words;
	uint64_t count;
};

static void *scribble_words(void *context)
{
	const struct scribble *scribble = context;
	uint64_t seed = 99;

	for (;;) { /* ends with the process */
		uint64_t value = base_rand_below(&seed, 3) ? base_rand_below(&seed, 4096)
							   : base_rand_next(&seed);

		atomic_store_explicit(&scribble->words[base_rand_below(&seed, scribble->count)], value,
			memory_order_relaxed);
	}
	return NULL;
}

/* Takes what came, and says how far it is; now and then a wild lie about that. */
static void consume(struct shm_client_end *end, uint64_t *seed)
{
	struct attnd_completion completion;

	while (shm_cpl_take(end, &completion))
		;
	if (base_rand_below(seed, 4) == 0)
		atomic_store_explicit(&end->line->completions_taken, base_rand_next(seed),
			memory_order_release);
	shm_client_publish(end);
}

/* Half random records as fast as the daemon takes them, while a second thread writes random words:
 * over the arena alone, so that the rings go on and many records come through; or over all of W,
 * rings and indices too, which soon wrecks them. Reports how many records went out. */
static void scribbler(const struct sys_daemon *daemon, uint64_t records, bool everywhere, int report_fd)
{
	struct shm_connection connection;
	struct shm_client_end end;
	struct attnd_request request;
	struct scribble scribble;
	pthread_t thread;
	uint64_t seed = records, put = 0, stalled = 0;

	hostile_connect(daemon, &connection);
	shm_client_end_init(&end, &connection);
	scribble.words = (_Atomic uint64_t *)(void *)(connection.write_memory +
		(everywhere ? 0 : connection.head.arena_offset));
	scribble.count = (everywhere ? connection.head.write_bytes : connection.head.arena_bytes) / 8;
	pthread_create(&thread, NULL, scribble_words, &scribble);
	while (put < records && stalled < (everywhere ? 100000 : 100000000)) {
		plausible(&request, &seed);
		if (shm_sub_put(&end, &request)) {
			put++;
			stalled = 0;
		} else {
			stalled++;
		}
		if (put % 16 == 0 || stalled) {
			consume(&end, &seed);
			shm_bell_notify(&end);
		}
	}
	(void)!write(report_fd, &put, sizeof(put));
	_exit(0);
}

/* One honest client: NOPs and a model session that must go on giving the same answer. Returns how
 * many rounds it got done until the flag. */
static uint64_t serve_meanwhile(const struct sys_daemon *daemon, pid_t until_dead)
{
	const struct attnd_options attach = { .struct_bytes = sizeof(attach),
		.address = daemon->address,
		.arena_bytes = 1 << 20,
		.spin_ns = 1000 };
	struct attnd_client *client;
	struct attnd_open_params open;
	uint32_t tokens[4] = { 3, 14, 15, 92 }, first = 0, id;
	uint64_t session, rounds = 0;

	assert_int_equal(attnd_connect(&client, &attach), 0);
	attnd_open_defaults(&open);
	while (waitpid(until_dead, NULL, WNOHANG) == 0) {
		assert_int_equal(attnd_nop(client), 0);
		assert_int_equal(attnd_session_open(client, &open, &session), 0);
		assert_int_equal(
			attnd_step(client, session, tokens, 4,
				(struct attnd_step_args){ .output = ATTND_OUT_ARGMAX }, &id, 4),
			4);
		assert_int_equal(attnd_session_close(client, session), 0);
		if (rounds++ == 0)
			first = id;
		assert_int_equal(id, first);
	}
	attnd_disconnect(client);
	return rounds;
}

static uint64_t scribble_beside(
	const struct sys_daemon *daemon, uint64_t records, bool everywhere, uint64_t *rounds)
{
	int report[2];
	uint64_t put = 0;

	assert_int_equal(pipe(report), 0);
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		scribbler(daemon, records, everywhere, report[1]);
	}
	*rounds += serve_meanwhile(daemon, pid);
	assert_int_equal(read(report[0], &put, sizeof(put)), sizeof(put));
	close(report[0]);
	close(report[1]);
	assert_true(sys_daemon_alive(daemon));
	return put;
}

static void test_scribble(void **state)
{
	uint64_t wanted = sys_sanitized() ? RECORDS_SANITIZED : RECORDS, put, rounds = 0, wild = 0;
	struct sys_daemon daemon;

	(void)state;
	sys_daemon_start(&daemon, true, options);
	put = scribble_beside(&daemon, wanted, false, &rounds);
	for (int i = 0; i < WILD_CLIENTS; i++)
		wild += scribble_beside(&daemon, 100000 + (uint64_t)i, true, &rounds);
	printf("# %llu records from a client that scribbles in its arena, %llu from %d that scribble everywhere, "
	       "%llu honest rounds beside them; %.0f refused by the front\n",
		(unsigned long long)put, (unsigned long long)wild, WILD_CLIENTS, (unsigned long long)rounds,
		sys_daemon_number(&daemon, "front.bad_record") + sys_daemon_number(&daemon, "front.bad_op") +
			sys_daemon_number(&daemon, "front.bad_range"));
	assert_true(put == wanted);
	assert_true(rounds > WILD_CLIENTS);
	assert_true(sys_daemon_wait_number(&daemon, "counters.clients", 0, 10000));
	assert_int_equal((int)sys_daemon_number(&daemon, "kv.used"), 0);
	assert_int_equal((int)sys_daemon_number(&daemon, "front.unowed"), 0);
	sys_daemon_stop(&daemon);
}

/* ---- the doorbell --------------------------------------------------------------------- */

static void bell_abuser(const struct sys_daemon *daemon)
{
	struct shm_connection connection;
	uint64_t most = UINT64_MAX - 1, value;

	hostile_connect(daemon, &connection);
	fcntl(connection.bell_fd, F_SETFL, fcntl(connection.bell_fd, F_GETFL) | O_NONBLOCK);
	for (int i = 0; i < 200000; i++) {
		(void)!write(connection.bell_fd, &most, sizeof(most));  /* full */
		(void)!read(connection.bell_fd, &value, sizeof(value)); /* reset */
		(void)!write(connection.bell_fd, &most, sizeof(most));
		if (i % 1000 == 0) /* blocking, for everybody who holds it */
			fcntl(connection.bell_fd, F_SETFL,
				fcntl(connection.bell_fd, F_GETFL) ^ O_NONBLOCK);
		fcntl(connection.bell_fd, F_SETFL, fcntl(connection.bell_fd, F_GETFL) | O_NONBLOCK);
	}
	_exit(0);
}

static void test_doorbell(void **state)
{
	static const char *const sleepy[] = { "kv.pool=64M", "placement.workers=0",
		"placement.idle=sleep", "daemon.log_level=warn", NULL };
	struct sys_daemon daemon;

	(void)state;
	sys_daemon_start(&daemon, true, sleepy);
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		bell_abuser(&daemon);
	}
	uint64_t rounds = serve_meanwhile(&daemon, pid);

	printf("# %llu honest rounds beside a client that abuses its doorbell\n",
		(unsigned long long)rounds);
	assert_true(rounds > 10);
	sys_daemon_stop(&daemon);
}

/* ---- holes ---------------------------------------------------------------------------- */

static int write_number(const char *path, const char *number)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t put = fd >= 0 ? write(fd, number, strlen(number)) : -1;

	if (fd >= 0)
		close(fd);
	return put > 0 ? 0 : -1;
}

static long free_huge_pages(void)
{
	char line[128];
	long pages = 0;
	FILE *file = fopen("/proc/meminfo", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "HugePages_Free: %ld", &pages) == 1)
			break;
	if (file)
		fclose(file);
	return pages;
}

/* The descriptor of W, found again through its mapping. */
static int reopen_writable(const struct shm_connection *connection)
{
	char path[96];
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], range[64];
	int fd = -1;

	snprintf(range, sizeof(range), "%lx-", (unsigned long)(uintptr_t)connection->write_memory);
	while (maps && fgets(line, sizeof(line), maps))
		if (!strncmp(line, range, strlen(range))) {
			char *space = strchr(line, ' ');

			snprintf(path, sizeof(path), "/proc/self/map_files/%.*s",
				(int)(space - line), line);
			fd = open(path, O_RDWR | O_CLOEXEC);
		}
	if (maps)
		fclose(maps);
	return fd;
}

/* Attaches on huge pages, takes every other huge page away, and punches a hole under the rings: the
 * daemon's next read finds no page. */
static void hole_puncher(const struct sys_daemon *daemon, int report_fd)
{
	struct shm_connection connection;
	char done = 0;

	hostile_connect(daemon, &connection);
	int fd = reopen_writable(&connection);
	long pages = free_huge_pages();
	size_t hog_bytes = (size_t)pages << 21;
	unsigned char *hog = pages > 0 ? mmap(NULL, hog_bytes, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0)
				       : NULL;

	if (fd >= 0 && hog != MAP_FAILED) {
		for (long i = 0; i < pages; i++)
			hog[(size_t)i << 21] = 1;
		if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			    (off_t)connection.head.write_bytes)) {
			/* The freed pages must not come back by themselves: take them too. */
			void *rest = mmap(NULL, connection.head.write_bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);

			done = rest != MAP_FAILED ? 'y' : 'p';
		}
	}
	(void)!write(report_fd, &done, 1);
	pause();
	_exit(0);
}

static void test_hole(void **state)
{
	static const char *const huge[] = { "kv.pool=64M", "placement.workers=0",
		"placement.spin_us=50", "shm.huge_pages=yes", "daemon.log_level=warn", NULL };
	struct sys_daemon daemon;
	int report[2];
	char done = 0;

	(void)state;
	if (sys_sanitized() || write_number("/proc/sys/vm/nr_hugepages", "64") ||
		free_huge_pages() < 16) {
		printf("# no huge pages can be reserved here\n");
		skip();
	}
	sys_daemon_start(&daemon, true, huge);
	assert_int_equal(pipe(report), 0);
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		hole_puncher(&daemon, report[1]);
	}
	assert_int_equal(read(report[0], &done, 1), 1);
	printf("# hole punched: %c\n", done ? done : 'n');
	assert_true(sys_daemon_wait_number(
		&daemon, "counters.clients", 0, 5000)); /* it was dropped, though it lives */
	assert_true(sys_daemon_alive(&daemon));
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	pid_t gone = fork(); /* a process that ends soon, while an honest client is served */

	if (gone == 0) {
		const struct timespec moment = { .tv_nsec = 200000000 };

		nanosleep(&moment, NULL);
		_exit(0);
	}
	assert_true(serve_meanwhile(&daemon, gone) > 0);
	sys_daemon_stop(&daemon);
	write_number("/proc/sys/vm/nr_hugepages", "0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scribble),
		cmocka_unit_test(test_doorbell),
		cmocka_unit_test(test_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
