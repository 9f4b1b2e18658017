# attnd: one plain makefile. `make help` lists what it does.
#
# Sources are found by wildcard: a .c file dropped into a folder is built, archived and linked. Everything
# that is made lies below $(O); the programs are $(O)/attnd, $(O)/attnctl and so on.

O       ?= build#       output folder
V       ?=#             V=1 prints whole commands
SAN     ?=#             sanitizers: address,undefined or thread
PREFIX  ?= /usr/local#  where install puts things
DESTDIR ?=#             a root to install below, for packages
WERROR  ?=#             WERROR=1 turns warnings into errors
HWLOC   ?= 1#           HWLOC= builds without hwloc; the topology then comes from /sys
URING   ?= auto#        io_uring: auto, 1 or 0
DPDK    ?= auto#        DPDK: auto, 1 or 0
CUDA    ?= auto#        CUDA: auto, 1 or 0
FUZZ    ?=#             FUZZ=1 with CC=clang links the fuzz targets with libFuzzer
KINDS   ?= checks unit abi kernels stress fuzz sim fault system# what to check
TESTS   ?=#             only the tests with this in their path, e.g. TESTS=base_clock

ifeq ($(origin CC),default)
CC      := gcc
endif

VERSION := 0.1.0
SONAME  := libattnd.so.0
FOLDERS := base shm-ipc netio kernels model sched service client-lib

# The suites of `make check`: each is a build of its own below $(O), and runs these kinds of tests. The kind
# "checks" is the scripts tools/check-*. There is a suite for clang where clang is.
SUITES      := plain asan tsan $(if $(shell command -v clang),clang)
SAN_asan    := address,undefined
SAN_tsan    := thread
CC_clang    := clang
KINDS_plain := $(KINDS)
KINDS_asan  := $(filter unit kernels fuzz sim fault system,$(KINDS))
KINDS_tsan  := $(filter unit stress,$(KINDS))
KINDS_clang := $(filter unit kernels,$(KINDS))

# A sanitizer build asked for by hand has its own folder, so that builds coexist, and is a suite of its own.
ifneq ($(SAN),)
ifeq ($(origin O),file)
comma   := ,
O       := build/$(subst $(comma),-,$(SAN))
endif
SUITES      := plain
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif

Q       := $(if $(V),,@)
keep_if_same = if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
say      = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2:$(O)/%=%);)
is_on    = $(filter-out 0 no off,$(strip $(1)))

# ---- Compiler and libraries ------------------------------------------------------------------------------

has_package = $(if $(call is_on,$(1)),$(if $(filter auto,$(1)),$(shell pkg-config --exists $(2) 2>/dev/null && echo 1),1))

HWLOC_ON := $(call is_on,$(HWLOC))
URING_ON := $(call has_package,$(URING),liburing)
PACKAGES := $(if $(HWLOC_ON),hwloc) libcjson inih smartcols libsodium $(if $(URING_ON),liburing)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wvla -Wundef -Wwrite-strings -Wformat=2 $(if $(WERROR),-Werror)
# Cut messages are meant to be cut; and sanitizers' code makes gcc see ghosts. The last one is for clang.
WARNINGS += -Wno-format-truncation $(if $(SAN),-Wno-maybe-uninitialized -Wno-tsan) -Wno-unknown-warning-option
OPTIMIZE := $(if $(SAN),-O1 -fno-omit-frame-pointer,-O2)

INCLUDES := -I. -Iclient-lib/include -I$(O)/gen
CFLAGS_ALL := -std=c17 -D_GNU_SOURCE -pthread -g $(WARNINGS) -fPIC -fvisibility=hidden -ffp-contract=off \
	$(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all) \
	$(if $(FUZZ),-fsanitize=fuzzer-no-link) \
	$(INCLUDES) $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null) $(shell pkg-config --cflags cmocka 2>/dev/null) $(CFLAGS)
LDFLAGS_ALL := -pthread -Wl,--as-needed -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)
LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm
CLIENT_LIBS := $(shell pkg-config --libs libsodium 2>/dev/null) -lm
TEST_LIBS := $(shell pkg-config --libs cmocka 2>/dev/null)

# Instruction sets belong to single files, named after them; everything else runs on any x86-64.
AVX2    := -mavx2 -mfma -mf16c
AVX512  := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd
$(O)/obj/kernels/%.o: OPTIMIZE := $(if $(SAN),$(OPTIMIZE),-O3)
$(O)/obj/kernels/cpu/%_avx2.o: ISA := $(AVX2)
$(O)/obj/kernels/cpu/%_avx512.o: ISA := $(AVX512)
# These ask the processor for VNNI themselves; nothing else may use it.
$(addprefix $(O)/obj/kernels/cpu/cpu_,attention_avx512.o attention_int4_avx512.o products_integer_avx512.o): ISA := $(AVX512) -mavx512vnni
$(O)/obj/kernels/cpu/%_amx.o: ISA := $(AVX512) -mavx512vnni -mamx-tile -mamx-int8 -mamx-bf16
# The limits that kernels are measured against: the calls are guarded one by one.
$(O)/obj/tests/bench/%_avx2.o: ISA := $(AVX2)
$(O)/obj/tests/bench/%_avx512.o: ISA := $(AVX512) -mavx512vnni -mavx512bf16
$(O)/obj/tests/bench/%_amx.o: ISA := -mamx-tile -mamx-int8 -mamx-bf16

# ---- Sources ---------------------------------------------------------------------------------------------

# Where two files do the same job, the choice is made here and not by #ifdef.
NOT_BUILT := $(if $(HWLOC_ON),base/base_topo_sysfs.c,base/base_topo_hwloc.c) \
	$(if $(URING_ON),tools/attnbench_bare_uring_none.c,tools/attnbench_bare_uring.c) \
	$(if $(URING_ON),netio/net_uring_none.c,netio/net_uring.c netio/net_uring_stream.c netio/net_uring_datagram.c)

sources  = $(filter-out $(NOT_BUILT) service/svc_main.c,$(wildcard $(1)/*.c $(1)/*/*.c))
objects  = $(patsubst %.c,$(O)/obj/%.o,$(1))

ARCHIVES := $(FOLDERS:%=$(O)/lib/lib%.a)
ALL_ARCHIVES := -Wl,--start-group $(ARCHIVES) -Wl,--end-group

# One program per tools/NAME.c without an underscore; NAME_*.c are its further parts, tool_*.c are shared.
TOOLS := $(foreach f,$(wildcard tools/*.c),$(if $(findstring _,$(f)),,$(f:tools/%.c=%)))
PROGRAMS := $(addprefix $(O)/,$(TOOLS) $(if $(wildcard service/svc_main.c),attnd))
LIBRARY := $(if $(wildcard client-lib/*.c),$(addprefix $(O)/,libattnd.so libattnd.a attnd.pc))

TEST_SOURCES := $(foreach k,$(KINDS) bench,$(wildcard tests/$(k)/test_*.c tests/$(k)/bench_*.c \
	$(filter-out tests/fuzz/fuzz_main.c,$(wildcard tests/$(k)/fuzz_*.c))))
TEST_PARTS := $(filter-out $(wildcard tests/*/test_*.c tests/*/fuzz_*.c tests/*/bench_*.c), \
	$(wildcard tests/*.c tests/*/*.c))
wanted = $(foreach f,$(1),$(if $(or $(if $(TESTS),,1),$(findstring $(TESTS),$(f))),$(O)/$(f:.c=)))
TEST_PROGRAMS := $(call wanted,$(filter-out tests/bench/%,$(TEST_SOURCES)))
BENCH_PROGRAMS := $(call wanted,$(filter tests/bench/%,$(TEST_SOURCES)))

# ---- What people ask for ---------------------------------------------------------------------------------

all: $(PROGRAMS) $(LIBRARY) $(ARCHIVES) $(O)/attnd.service ## build the programs and the client library (the default)

run: ## build, then show the daemon at work on a real model (MODEL=file.gguf picks another)
	@tools/setup.sh run
	@$(MAKE) all
	@O=$(O) MODEL=$(MODEL) tools/run-demo.sh

check: ## run every check and test, in plain and sanitizer builds (KINDS= TESTS= narrow it)
	@tools/setup.sh check
	@for suite in $(SUITES); do $(MAKE) suite-$$suite || exit 1; done
	@O=$(O) CC=$(CC) TESTS='$(TESTS)' tests/run.sh $(foreach s,$(SUITES),'$(s):$(O_$(s)):$(KINDS_$(s))')

bench: ## build and run the benchmarks
	@tools/setup.sh check
	@$(MAKE) all benchmarks
	@O=$(O) TESTS='$(TESTS)' tests/run.sh --show 'bench:$(O):bench'

check-kernels: ## the tests of kernels in all suites, and once more without AMX, AVX-512 and all vector units
	@$(MAKE) check KINDS=kernels
	@for isa in avx512 avx2 scalar; do echo "ATTND_ISA=$$isa"; \
		ATTND_ISA=$$isa TESTS='$(TESTS)' tests/run.sh 'plain:$(O):kernels' || exit 1; done

check-sched: ## the tests of the scheduler: order, promises, fair shares, random schedules, the simulator
	@$(MAKE) suite-plain
	@TESTS=sched tests/run.sh 'plain:$(O):unit' && TESTS=attnsim tests/run.sh 'plain:$(O):unit system' && \
		TESTS=test_service tests/run.sh 'plain:$(O):sim'

check-net: ## the tests of the network: packets, both ends, sockets, lossy ways, the whole service over a simulated network
	@$(MAKE) suite-plain
	@TESTS=net tests/run.sh 'plain:$(O):unit fuzz system' && TESTS=test_network tests/run.sh 'plain:$(O):sim'

bench-kernels: ## each kernel's fraction of this machine's limits (MODEL=file.gguf: whole models beside llama-bench)
	@tools/setup.sh check
	@$(MAKE) all benchmarks TESTS=bench_kernels
	@mkdir -p $(O)/bench && MODEL='$(MODEL)' $(O)/tests/bench/bench_kernels --json $(O)/bench/kernels.json

all-tests: $(TEST_PROGRAMS) $(if $(filter checks abi kernels sim fault system,$(KINDS)),all) ## build the tests, without running them
benchmarks: $(BENCH_PROGRAMS)

$(foreach s,$(SUITES),$(eval O_$(s) := $(O)$(if $(filter plain,$(s)),,/$(s))))
suite-%:
	@$(MAKE) O=$(O_$*) SAN=$(or $(SAN_$*),$(SAN)) CC=$(or $(CC_$*),$(CC)) KINDS='$(KINDS_$*)' all-tests

# What is installed, as mode:file:place below $(PREFIX).
INSTALLED := $(foreach t,$(TOOLS),755:$(O)/$(t):bin/$(t)) 755:$(O)/attnd:sbin/attnd \
	755:$(O)/libattnd.so:lib/libattnd.so.$(VERSION) 644:$(O)/libattnd.a:lib/libattnd.a \
	644:$(O)/attnd.pc:lib/pkgconfig/attnd.pc 644:$(O)/attnd.service:lib/systemd/system/attnd.service \
	644:tools/attnd.lua:share/attnd/attnd.lua \
	$(foreach h,$(wildcard client-lib/include/attnd/*.h),644:$(h):$(h:client-lib/%=%)) \
	$(foreach p,$(wildcard docs/man/*.[1-8]),644:$(p):share/man/man$(subst .,,$(suffix $(p)))/$(notdir $(p)))
TO  = $(DESTDIR)$(PREFIX)
ETC = $(DESTDIR)/etc

install: all ## install below $(DESTDIR)$(PREFIX); a configuration that is there is never overwritten
	$(Q)for item in $(INSTALLED); do IFS=:; set -- $$item; install -D -m$$1 $$2 $(TO)/$$3 || exit 1; done
	$(Q)ln -sf libattnd.so.$(VERSION) $(TO)/lib/$(SONAME)
	$(Q)ln -sf $(SONAME) $(TO)/lib/libattnd.so
	$(Q)[ -e $(ETC)/attnd.conf ] || install -D -m644 service/attnd.conf $(ETC)/attnd.conf

uninstall: ## remove what install put there, except the configuration
	$(Q)for item in $(INSTALLED); do rm -f $(TO)/$${item##*:}; done
	$(Q)rm -f $(TO)/lib/$(SONAME) $(TO)/lib/libattnd.so
	$(Q)rmdir --ignore-fail-on-non-empty $(TO)/include/attnd $(TO)/share/attnd

dist: ## pack the committed sources
	$(Q)mkdir -p $(O)
	$(Q)git archive --prefix=attnd-$(VERSION)/ -o $(O)/attnd-$(VERSION).tar.gz HEAD
	@echo $(O)/attnd-$(VERSION).tar.gz

clean: ## remove the output folder
	$(Q)if [ -e $(O)/sources ]; then rm -rf -- '$(O)'; fi

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo; echo "Variables:"
	@sed -n 's/^\([A-Z]*\) *?= *\([^#]*\)#  *\(.*\)/  \1\t\3/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: all run check check-sched check-net check-kernels bench bench-kernels all-tests benchmarks install uninstall dist clean help FORCE

# ---- How things are made ---------------------------------------------------------------------------------

$(O)/obj/%.o: %.c $(O)/flags $(O)/gen/base/base_features.h
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) $(OPTIMIZE) $(ISA) -MMD -MP -c -o $@ $<

# An archive is made anew when one of its objects changes, or when any archive gains or loses a source.
.SECONDEXPANSION:
$(ARCHIVES): $(O)/lib/lib%.a: $$(call objects,$$(call sources,%)) $(O)/sources
	$(call say,AR,$@)mkdir -p $(@D) && rm -f $@ && ar rcs $@ $(filter %.o,$^)

$(O)/lib/libtests.a: $(call objects,$(TEST_PARTS)) $(O)/sources
	$(call say,AR,$@)mkdir -p $(@D) && rm -f $@ && ar rcs $@ $(filter %.o,$^)

link = $(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^)

$(O)/attnd: $(O)/obj/service/svc_main.o $(ARCHIVES)
	$(call say,LD,$@)$(link) $(ALL_ARCHIVES) $(LIBS)

$(TOOLS:%=$(O)/%): $(O)/%: $$(call objects,$$(filter-out $(NOT_BUILT),$$(wildcard tools/$$*.c tools/$$*_*.c tools/tool_*.c))) $(ARCHIVES)
	$(call say,LD,$@)$(link) $(ALL_ARCHIVES) $(LIBS)

$(O)/tests/fuzz/fuzz_%: $(O)/obj/tests/fuzz/fuzz_%.o $(if $(FUZZ),,$(O)/obj/tests/fuzz/fuzz_main.o) \
		$(O)/lib/libtests.a $(ARCHIVES)
	$(call say,LD,$@)mkdir -p $(@D) && $(link) $(if $(FUZZ),-fsanitize=fuzzer) \
		$(O)/lib/libtests.a $(ALL_ARCHIVES) $(LIBS)

$(O)/tests/%: $(O)/obj/tests/%.o $(O)/lib/libtests.a $(ARCHIVES)
	$(call say,LD,$@)mkdir -p $(@D) && $(link) $(O)/lib/libtests.a $(ALL_ARCHIVES) $(TEST_LIBS) $(LIBS)

# It replays what the simulator replays.
$(O)/attnbench: $(call objects,tools/attnsim_trace.c)

# Tests of parts of a tool take these with them.
$(addprefix $(O)/tests/,unit/test_attnsim fuzz/fuzz_trace): \
	$(call objects,$(addprefix tools/attnsim_,trace.c noise.c device.c))
$(O)/tests/unit/test_attnbench_replay: $(call objects,tools/attnbench_replay_plan.c tools/attnsim_trace.c)
$(O)/tests/system/test_net_siege: $(call objects,tools/attnbench_siege_enemy.c)

# The client library: of the other archives it takes only the members it needs, and hides them.
CLIENT_PARTS := -Wl,--whole-archive $(O)/lib/libclient-lib.a -Wl,--no-whole-archive \
	-Wl,--start-group $(addprefix $(O)/lib/lib,shm-ipc.a netio.a base.a) -Wl,--end-group

$(O)/libattnd.so: client-lib/libattnd.map $(ARCHIVES)
	$(call say,LD,$@)$(CC) -shared $(LDFLAGS_ALL) -Wl,-soname,$(SONAME) -Wl,--version-script=$< \
		$(if $(SAN),,-Wl,-z,defs) -o $@ $(CLIENT_PARTS) $(CLIENT_LIBS) && ln -sf libattnd.so $(O)/$(SONAME)

$(O)/libattnd.a: $(ARCHIVES)
	$(call say,AR,$@)rm -f $@ && $(CC) -r -nostdlib -o $(O)/obj/libattnd.o $(CLIENT_PARTS) && \
		objcopy --localize-hidden $(O)/obj/libattnd.o && ar rcs $@ $(O)/obj/libattnd.o

$(O)/attnd.pc: client-lib/attnd.pc.in FORCE
	@sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' $< >$@.new && $(keep_if_same)

$(O)/attnd.service: service/attnd.service.in FORCE
	@sed 's|@PREFIX@|$(PREFIX)|' $< >$@.new && $(keep_if_same)

# ---- Stamps: rebuild when the flags, the features or the list of sources change --------------------------

FLAGS := $(CC) $(shell $(CC) -dumpfullversion -dumpversion 2>/dev/null) $(CFLAGS_ALL) $(OPTIMIZE) \
	$(LDFLAGS_ALL) $(LIBS)
quote = '$(subst ','\'',$(1))'

$(O)/flags: FORCE
	@tools/setup.sh --have build && mkdir -p $(@D)
	@printf '%s\n' $(call quote,$(FLAGS)) >$@.new && $(keep_if_same)

$(O)/sources: FORCE
	@mkdir -p $(@D) && echo $(sort $(foreach f,$(FOLDERS),$(call sources,$(f))) $(TEST_PARTS)) >$@.new && $(keep_if_same)

HAVE_CUDA = $(if $(call is_on,$(CUDA)),$(if $(filter auto,$(CUDA)),$(shell command -v nvcc >/dev/null && echo 1),1))
$(O)/gen/base/base_features.h: FORCE
	@mkdir -p $(@D) && printf '%s\n' '/* What this build was made with; made by the Makefile. */' \
		'#ifndef BASE_FEATURES_H' '#define BASE_FEATURES_H' '' \
		'#define BASE_VERSION "$(VERSION)"' \
		'#define BASE_HAVE_HWLOC $(if $(HWLOC_ON),1,0)' \
		'#define BASE_HAVE_URING $(if $(URING_ON),1,0)' \
		'#define BASE_HAVE_DPDK $(if $(call has_package,$(DPDK),libdpdk),1,0)' \
		'#define BASE_HAVE_CUDA $(if $(HAVE_CUDA),1,0)' '' '#endif' >$@.new && $(keep_if_same)

FORCE:

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)
