# tidemark. `make test` does everything on a fresh machine; `make` alone builds.
#
#   make            the Lua modules (LUA=5.4 or LUA=5.3), the C libraries, tidemark.pc: into $(BUILD)
#   make demo       deps, build, then earthquakes through a log into two followers that are killed again and again
#   make test       deps, build, every spec
#   make lint       warnings, formatting, static analysis, exported names
#   make check      the specs under Lua 5.3 and under AddressSanitizer, the thread programs under ThreadSanitizer
#   make bench      contenders side by side: prints ratios, asserts nothing. make bench-deps installs the peers
#   make install    PREFIX=/usr/local DESTDIR=
#   make bench-instructions  counts the instructions of hot calls; no more than 3% above bench/instructions.txt
#   make deps       installs what build and test need; make lint-deps what lint and check need; make host-deps the servers of examples/

LUA     = 5.4
BUILD   = build
PREFIX  = /usr/local
DESTDIR =
CFLAGS  = -O2 -g
LDFLAGS =
WARN    = -Wall -Wextra -Wshadow -Wconversion

VERSION   := $(shell sed -n 's/^.define TIDEMARK_VERSION "\(.*\)"/\1/p' csrc/include/tidemark.h)
LUA_CFLAGS = $(shell pkg-config --cflags lua$(LUA))
LUA_LIBS   = $(shell pkg-config --libs lua$(LUA))
COMPILE    = $(CC) -std=c11 $(WARN) -fPIC -fvisibility=hidden -MMD -MP -Icsrc/include $(CFLAGS)

CORE  := $(patsubst csrc/core/%.c,%,$(wildcard csrc/core/*.c))
BIND  := $(patsubst csrc/lua/%.c,%,$(wildcard csrc/lua/*.c))
SQLITE := $(patsubst csrc/sqlite/%.c,%,$(wildcard csrc/sqlite/*.c))
PROGS := $(patsubst spec/c/%.c,%,$(wildcard spec/c/*.c))
BENCH := $(patsubst bench/workers/%.c,%,$(wildcard bench/workers/*.c))
MODULE = $(BUILD)/lua$(LUA)/tidemark/core.so
# only where libsqlite3 is: the rest does not need it
SQLITE_MODULE = $(if $(shell pkg-config --exists sqlite3 && echo yes),$(BUILD)/lua$(LUA)/tidemark/sqlite.so)

# objects: of the libraries, whose API is exported; of the Lua module, which exports luaopen_ only
LIB_OBJECTS     = $(CORE:%=$(BUILD)/lib/%.o)
MODULE_OBJECTS  = $(CORE:%=$(BUILD)/lua$(LUA)/core_%.o) $(BIND:%=$(BUILD)/lua$(LUA)/lua_%.o)

.PHONY: all deps lint-deps host-deps bench-deps demo programs test spec bench-programs benches bench bench-instructions lint check check-lua53 check-asan check-tsan check-waits install clean
.DELETE_ON_ERROR:
all: $(MODULE) $(SQLITE_MODULE) $(BUILD)/libtidemark.a $(BUILD)/libtidemark.so $(BUILD)/tidemark.pc

$(BUILD)/lib/%.o: csrc/core/%.c
	@mkdir -p $(@D)
	$(COMPILE) -c $< -o $@

$(BUILD)/lua$(LUA)/core_%.o: csrc/core/%.c
	@mkdir -p $(@D)
	$(COMPILE) -DTIDEMARK_MODULE -c $< -o $@

$(BUILD)/lua$(LUA)/lua_%.o: csrc/lua/%.c
	@mkdir -p $(@D)
	$(COMPILE) -DTIDEMARK_MODULE $(LUA_CFLAGS) -c $< -o $@

$(MODULE): $(MODULE_OBJECTS)
	@mkdir -p $(@D)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) $^ -o $@ -pthread

$(BUILD)/lua$(LUA)/sqlite_%.o: csrc/sqlite/%.c
	@mkdir -p $(@D)
	$(COMPILE) $(LUA_CFLAGS) $(shell pkg-config --cflags sqlite3) -c $< -o $@

$(BUILD)/lua$(LUA)/tidemark/sqlite.so: $(SQLITE:%=$(BUILD)/lua$(LUA)/sqlite_%.o)
	@mkdir -p $(@D)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) $^ -o $@ $(shell pkg-config --libs sqlite3)

$(BUILD)/libtidemark.a: $(LIB_OBJECTS)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libtidemark.so.0: $(LIB_OBJECTS)
	$(CC) -shared -Wl,-soname,libtidemark.so.0 $(CFLAGS) $(LDFLAGS) $^ -o $@ -pthread

$(BUILD)/libtidemark.so: $(BUILD)/libtidemark.so.0
	ln -sf libtidemark.so.0 $@

# the prefix may differ from one `make install` to the next
.PHONY: $(BUILD)/tidemark.pc
$(BUILD)/tidemark.pc: tidemark.pc.in
	@mkdir -p $(@D)
	@sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' $< > $@

# ---- specs ----

# C programs are linked statically: tests reach internals, and ThreadSanitizer needs it; those that use Lua, lua_*, are built for each version
program_paths = $(patsubst %,$(BUILD)/spec/%,$(filter-out lua_%,$(1))) $(patsubst %,$(BUILD)/lua$(LUA)/spec/%,$(filter lua_%,$(1)))
programs: $(call program_paths,$(PROGS))

$(BUILD)/spec/%.o: spec/c/%.c
	@mkdir -p $(@D)
	$(COMPILE) -Wno-unused-function -c $< -o $@

$(BUILD)/lua$(LUA)/spec/%.o: spec/c/%.c
	@mkdir -p $(@D)
	$(COMPILE) -Wno-unused-function $(LUA_CFLAGS) -c $< -o $@

$(BUILD)/lua$(LUA)/spec/%: $(BUILD)/lua$(LUA)/spec/%.o $(MODULE_OBJECTS)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ $(LUA_LIBS) -pthread

# these include the core's sources themselves, with an allocator or a futex of their own
$(addprefix $(BUILD)/spec/,state_memory wait_handshake wait_stress_threads): $(BUILD)/spec/%: $(BUILD)/spec/%.o
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ -pthread

# these include one, and take the others from the archive
$(addprefix $(BUILD)/spec/,watch watch_pipe): $(BUILD)/spec/%: $(BUILD)/spec/%.o $(BUILD)/libtidemark.a
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -o $@ -pthread

$(BUILD)/spec/%: $(BUILD)/spec/%.o $(BUILD)/libtidemark.a
	$(CC) $(CFLAGS) $(LDFLAGS) $< $(LIB_OBJECTS) -o $@ -pthread

# the rule names its targets: a pattern would match their .d files as well
MUTANTS = $(patsubst %,$(BUILD)/spec/mutants/state_relaxed_%,READ STALE ADVANCE RELEASE FREE)
$(MUTANTS): $(BUILD)/spec/mutants/state_relaxed_%: spec/c/mutants/state_relaxed.c $(BUILD)/lib/error.o
	@mkdir -p $(@D)
	$(COMPILE) -Wno-unused-function -DRELAXED_$* $(LDFLAGS) $< $(BUILD)/lib/error.o -o $@ -pthread

LUA_MUTANT = $(BUILD)/lua$(LUA)/spec/mutants/lua_relaxed
$(LUA_MUTANT): spec/c/mutants/lua_relaxed.c $(BUILD)/lua$(LUA)/spec/lua_threads.o $(filter-out %/core_state.o %/lua_replication_state.o,$(MODULE_OBJECTS))
	@mkdir -p $(@D)
	$(COMPILE) -Wno-unused-function -DTIDEMARK_MODULE $(LUA_CFLAGS) $(LDFLAGS) $^ -o $@ $(LUA_LIBS) -pthread

WAIT_MUTANTS = $(addprefix $(BUILD)/spec/mutants/wait_broken_,NO_WAKE LATE_FLAG)
$(WAIT_MUTANTS): $(BUILD)/spec/mutants/wait_broken_%: spec/c/mutants/wait_broken.c
	@mkdir -p $(@D)
	$(COMPILE) -Wno-unused-function -D$* $(LDFLAGS) $< -o $@ -pthread

# its own malloc stands before the core's
$(BUILD)/spec/wal_memory: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=free
$(BUILD)/spec/wal_wakes_threads: LDFLAGS += -Wl,--wrap=syscall

.SECONDARY:
-include $(wildcard $(BUILD)/*/*.d $(BUILD)/bench/lua*/*.d $(BUILD)/lua*/spec/*.d $(BUILD)/spec/mutants/*.d $(BUILD)/lua*/spec/mutants/*.d)

under = $(subst .,_,$(LUA))
SPEC_ENV = TIDEMARK_BUILD='$(BUILD)' TIDEMARK_LUA=lua$(LUA) TIDEMARK_CFLAGS='$(CFLAGS) $(LDFLAGS)' \
           LUA_PATH_$(under)='lua/?.lua;lua/?/init.lua;;' LUA_CPATH_$(under)='$(BUILD)/lua$(LUA)/?.so;;'

# SPECS='spec/x_spec.lua' runs a part
spec: all programs
	$(SPEC_ENV) $(PRELOAD) lua$(LUA) spec/run.lua $(SPECS)

test: deps
	@$(MAKE) --no-print-directory spec

# ---- the demo: INPUT=your.jsonl KEY=field does it with your own data ----

# a make of its own, which sees what deps has installed
demo: deps
	@$(MAKE) --no-print-directory run-demo

.PHONY: run-demo
run-demo: all
	@$(SPEC_ENV) LUA_PATH_$(under)='examples/quakes/?.lua;lua/?.lua;lua/?/init.lua;;' lua$(LUA) examples/quakes/demo.lua $(if $(INPUT),'$(INPUT)' '$(KEY)')

# ---- benchmarks ----

# linked statically: they may reach internals, to compare with
$(BUILD)/bench/%.o: bench/workers/%.c
	@mkdir -p $(@D)
	$(COMPILE) -c $< -o $@

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(BUILD)/libtidemark.a
	$(CC) $(CFLAGS) $(LDFLAGS) $< $(LIB_OBJECTS) -o $@ -pthread

# for Lua workers
BENCH_MODULES = $(patsubst bench/modules/%.c,$(BUILD)/bench/lua$(LUA)/%.so,$(wildcard bench/modules/*.c))
$(BUILD)/bench/lua$(LUA)/%.so: bench/modules/%.c
	@mkdir -p $(@D)
	$(COMPILE) $(LUA_CFLAGS) -shared $< -o $@

# SQLite is there where follower databases can be built at all
PEERS = $(if $(SQLITE_MODULE),$(BUILD)/bench/sqlite) $(if $(wildcard /usr/include/lmdb.h),$(BUILD)/bench/lmdb) $(BUILD)/bench/redis
$(BUILD)/bench/sqlite: PEER_LIBS = -lsqlite3
$(BUILD)/bench/lmdb: PEER_LIBS = -llmdb
$(PEERS): $(BUILD)/bench/%: bench/peers/%.c
	@mkdir -p $(@D)
	$(COMPILE) $< -o $@ $(PEER_LIBS)

# Debian's own compiler where there is one, lest another one in PATH be measured; in a copy, for cargo writes beside the source
RUST_BIN = $(if $(wildcard /usr/bin/cargo),/usr/bin/)
RUST_PEER = $(if $(wildcard /usr/share/cargo/registry/serde_json-*),$(BUILD)/bench/rust/release/marks)
$(BUILD)/bench/rust/release/marks: $(wildcard bench/peers/rust/* bench/peers/rust/*/*)
	@rm -rf $(BUILD)/bench/rust && mkdir -p $(BUILD)/bench/rust && cp -r bench/peers/rust $(BUILD)/bench/rust/source
	cd $(BUILD)/bench/rust/source && CARGO_HOME=home RUSTC=$(RUST_BIN)rustc $(RUST_BIN)cargo build --quiet --offline --release --target-dir ..

bench-programs: all $(BENCH:%=$(BUILD)/bench/%) $(BENCH_MODULES)

benches: bench-programs $(RUST_PEER) $(PEERS)

# what is timed with the disk is in BENCH_DIR, which must be on one
BENCH_DIR = $(BUILD)/bench
BENCH_ENV = BENCH_DIR='$(BENCH_DIR)' TIDEMARK_BUILD='$(BUILD)' TIDEMARK_LUA=lua$(LUA) LUA_PATH_$(under)='./?.lua;lua/?.lua;lua/?/init.lua;;' \
            LUA_CPATH_$(under)='$(BUILD)/lua$(LUA)/?.so;$(BUILD)/bench/lua$(LUA)/?.so;;'

# ROWS='what' runs a part, REPORT=directory writes what it found there. Writing to a worker that has ended is an error that is told, not
# the silent end of it all.
bench: benches
	@trap '' PIPE; $(BENCH_ENV) lua$(LUA) bench/run.lua $(if $(ROWS),--rows '$(ROWS)') $(if $(REPORT),--report '$(REPORT)') $(BENCH_OPTIONS)

# against bench/instructions.txt; UPDATE=1 writes it
bench-instructions: all $(BUILD)/bench/marks $(BENCH_MODULES)
	@$(BENCH_ENV) lua$(LUA) bench/instructions.lua $(if $(UPDATE),--update)

# ---- what CI runs besides ----

check: check-lua53 check-asan check-tsan check-waits

check-lua53:
	@$(MAKE) --no-print-directory spec LUA=5.3

check-asan:
	@$(MAKE) --no-print-directory spec BUILD=build/asan \
	    CFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined' \
	    PRELOAD='ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD=$(shell $(CC) -print-file-name=libasan.so):$(shell $(CC) -print-file-name=libubsan.so)'

check-tsan:
	@for cc in gcc clang; do \
	    $(MAKE) --no-print-directory run-tsan CC=$$cc BUILD=build/tsan-$$cc CFLAGS='-O1 -g -fsanitize=thread' || exit 1; \
	done

# the mutants are wrong on purpose: each must end with the exit code of a report
.PHONY: run-tsan
THREADS = $(filter %threads,$(PROGS))
run-tsan: $(call program_paths,$(THREADS)) $(MUTANTS) $(LUA_MUTANT)
	@for program in $(call program_paths,$(THREADS)); do echo "$$program"; TSAN_OPTIONS=halt_on_error=1 $$program || exit 1; done
	@for mutant in $(MUTANTS) $(LUA_MUTANT); do \
	    TSAN_OPTIONS='halt_on_error=1 exitcode=66' $$mutant >$$mutant.log 2>&1; code=$$?; \
	    test $$code = 66 || { cat $$mutant.log; echo "$$mutant: not reported, exit code $$code"; exit 1; }; \
	    echo "$$mutant: reported, as it should be"; \
	done

# each must lose a wake, sleep for ever and be ended by its alarm (signal 14)
check-waits: $(WAIT_MUTANTS)
	@for mutant in $(WAIT_MUTANTS); do \
	    $$mutant >$$mutant.log 2>&1; code=$$?; \
	    test $$code = 142 || { cat $$mutant.log; echo "$$mutant: lost no wake, exit code $$code"; exit 1; }; \
	    echo "$$mutant: loses a wake, as it should"; \
	done

LUACHECK = luacheck --quiet lua spec examples bench bin/tidemark *.rockspec rocks/*.rockspec
SOURCES  = $(wildcard csrc/*/*.[ch] spec/c/*.[ch] spec/c/*/*.[ch] bench/*/*.[ch] examples/*/*.[ch])

# ctuuninitvar: an error that is written on failure only is passed unset
lint:
	$(LUACHECK)
	clang-format --dry-run -Werror $(SOURCES)
	@for cc in gcc clang; do for lua in 5.4 5.3; do \
	    $(MAKE) --no-print-directory all programs bench-programs CC=$$cc LUA=$$lua BUILD=build/lint-$$cc-$$lua CFLAGS='-O2 -Werror' || exit 1; \
	done; done
	cppcheck --quiet --std=c11 --error-exitcode=1 --enable=warning,portability -UTIDEMARK_ALLOC_H -UTIDEMARK_FUTEX_H \
	    --suppress=ctuuninitvar -Icsrc/include csrc
	@for module in core sqlite; do \
	    ! nm -D --defined-only build/lint-gcc-5.4/lua5.4/tidemark/$$module.so | grep -v ' luaopen_' || { echo "$$module.so exports more than luaopen_"; exit 1; }; \
	done
	@! nm -D --defined-only build/lint-gcc-5.4/libtidemark.so.0 | grep -v ' tidemark_' || { echo 'libtidemark.so exports other names'; exit 1; }

# ---- installing ----

install: all
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin include lib/pkgconfig lib/lua/$(LUA)/tidemark share/lua/$(LUA)/tidemark)
	install -m 644 csrc/include/*.h $(DESTDIR)$(PREFIX)/include
	install -m 644 $(BUILD)/libtidemark.a $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(BUILD)/libtidemark.so.0 $(DESTDIR)$(PREFIX)/lib
	ln -sf libtidemark.so.0 $(DESTDIR)$(PREFIX)/lib/libtidemark.so
	install -m 644 $(BUILD)/tidemark.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 755 $(MODULE) $(SQLITE_MODULE) $(DESTDIR)$(PREFIX)/lib/lua/$(LUA)/tidemark
	cd lua && find tidemark -name '*.lua' -exec install -D -m 644 {} $(abspath $(DESTDIR)$(PREFIX))/share/lua/$(LUA)/{} \;
	sed '1s/lua5.4/lua$(LUA)/' bin/tidemark > $(DESTDIR)$(PREFIX)/bin/tidemark && chmod 755 $(DESTDIR)$(PREFIX)/bin/tidemark

clean:
	rm -rf build

# ---- dependencies: Debian's packages where there is apt, else luarocks for the Lua ones ----

PACKAGES      = gcc libc6-dev pkg-config lua5.4 liblua5.4-dev lua-busted lua-cjson lua-dkjson lua-luv lua-cqueues lua-argparse luarocks binutils libsqlite3-dev
LINT_PACKAGES = clang clang-format cppcheck spin valgrind lua-check lua5.3 liblua5.3-dev libclang-rt-14-dev
HOST_DAEMONS  = haproxy lighttpd prosody
# HAProxy links Lua 5.3
HOST_PACKAGES = lighttpd-modules-lua curl wrk liblua5.3-dev
BENCH_DAEMONS = redis-server
BENCH_PACKAGES = valgrind rustc cargo librust-serde-json-dev liblmdb-dev
ROCKS         = busted lua-cjson dkjson luv cqueues argparse

deps:
	@sh scripts/deps.sh '$(PACKAGES)' '$(ROCKS)'

lint-deps:
	@sh scripts/deps.sh '$(PACKAGES) $(LINT_PACKAGES)' '$(ROCKS) luacheck'

host-deps:
	@sh scripts/deps.sh '$(HOST_PACKAGES)' '' '$(HOST_DAEMONS)'

bench-deps:
	@sh scripts/deps.sh '$(PACKAGES) $(BENCH_PACKAGES)' '$(ROCKS)' '$(BENCH_DAEMONS)'
