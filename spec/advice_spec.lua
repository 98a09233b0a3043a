--- There is always a way on: each message that tells its reader to do something has a test that does what it says. The table names it.
--- A message that is new, or that is changed, fails here until it has one.

local command_line = require "spec.support.command_line"
local literals = require "spec.support.literals"
local markdown = require "spec.support.markdown"

local STATE, WAL, C = "spec/advice_library_spec.lua", "spec/advice_wal_spec.lua", "spec/c/advice.c"
local LOG, FOLLOW, APPEND = "spec/advice_cli_log_spec.lua", "spec/advice_cli_follow_spec.lua", "spec/advice_cli_append_spec.lua"
local VERDICT, SALVAGE, RESET = "spec/cli_verdict_spec.lua", "spec/advice_salvage_spec.lua", "spec/cli_reset_spec.lua"

-- By source file: a part of each message that advises, as it is in the source; the file of its test, and the beginning of its name.
local TABLE = {
  ["bin/tidemark"] = {
    { "the module %s is missing; type: luarocks", APPEND, "those of other projects are installed" },
    { "the module tidemark.core is missing; type: make", APPEND, "those of tidemark are built" },
  },
  ["csrc/core/state_file.c"] = {
    { "is a symbolic link; name the file itself", STATE, "DENIED: a symbolic link" },
    { "has tried to open it: open it as user %lu", STATE, "DENIED: another user's file" },
    { "(one was deleted or replaced): end that process first", STATE, "BUSY: the live file was deleted" },
    { "a live file that does not belong to it: end those processes first", STATE, "BUSY: the live file is another state's" },
  },
  ["csrc/core/state_reset.c"] = {
    { "(handles, bound functions, watches): close them first", STATE, "BUSY at a reset: other references" },
    { "has a follower in this process: end it first", STATE, "LOCKED at a reset" },
    { "in another process or in this one: close it there first", STATE, "BUSY at a reset: it is closed elsewhere" },
    { "try again", STATE, "BUSY at a reset: somebody changed the note" },
  },
  ["csrc/core/state_save.c"] = {
    { "which forked this one: close the state here and open it again", STATE, "FORKED: the child closes it" },
    { "nothing can be saved until all who have it open have closed it", STATE, "IO and POISONED" },
    { "was deleted or replaced since it was opened: close the state and open it again", STATE, "REPLACED: it is closed and opened again" },
    { "with another state since it was opened: close the state and open it again", STATE, "REPLACED: it is closed and opened again" },
    { "close the state in every process, look at the disk, and open it again", STATE, "IO and POISONED" },
  },
  ["csrc/core/wal.c"] = {
    { "sync failed, close the log, look at the disk, and open it again", WAL, "IO and POISONED" },
    { "so another writer may have the log: close it and open it again", WAL, "REPLACED: a writer whose heads were removed" },
    { "opened before a fork: close it here, only the parent may write it", WAL, "FORKED: the child closes it" },
    { "failed write, failed: close the log, look at the disk, and open it again", WAL, "IO and POISONED" },
    { "a batch longer than 64 MiB: append it in parts", WAL, "a batch that is too long" },
    { "another writer has the log: close it and open it again", WAL, "REPLACED: a writer whose heads somebody has advanced" },
  },
  ["csrc/core/wal_open.c"] = {
    { "Restore the rest from a copy, if there is one.", WAL, "LOST: the rest is restored" },
    { "To go on without it, accept the loss", WAL, "LOST: without a copy" },
    { "leave the epoch out, or give a higher one", WAL, "FENCED: the epoch is left out" },
  },
  ["csrc/core/wal_reader.c"] = {
    { "was replaced since it was opened: open a new reader", WAL, "REPLACED: a reader" },
    { "there is no batch to read: wait for one first", C, "read_before_wait" },
  },
  ["csrc/core/wal_source.c"] = {
    { "try again, or open it for writing", WAL, "NOT_FOUND: a log that is not made to its end" },
  },
  ["csrc/core/watch.c"] = { { "ask whether the watch is ready", STATE, "UNSUPPORTED: a watch" } },
  ["csrc/sqlite/sqlite.c"] = {
    { "may COMMIT or ROLLBACK; use SAVEPOINT", STATE, "COMMIT in fn" },
    { "select another first", STATE, "NULL in the first column" },
  },
  ["lua/tidemark/cli/advice.lua"] = {
    { "</dev/null, which says how to go on", LOG, "CORRUPT: heads" },
    { "; or begin with record 1 in another file, %s FILE", FOLLOW, "CORRUPT: another file" },
    { "end the processes that have it open, then try again", FOLLOW, "BUSY: the process that has the old file open" },
    { "end the processes that have it open, then try again", FOLLOW, "BUSY: the process that has it locked" },
    { "leave --epoch out", APPEND, "FENCED" },
    { "end the other one first", APPEND, "LOCKED: the other writer" },
    { "end the other one first", FOLLOW, "LOCKED: the other follower" },
    { "end the follower first", RESET, "refuses a state file beside" },
    { "end all who have it open, look at the disk, then start again", FOLLOW, "POISONED" },
    { "the files were replaced while they were open: start again", FOLLOW, "REPLACED" },
    { "End the log's writer, then type: %s salvage %s %s", LOG, "CORRUPT: a segment " },
    { "End the log's writer, then type: %s salvage %s %s", LOG, "CORRUPT: append says the same" },
    { "type %s verify %s, which says what to do", LOG, "CORRUPT: a segment " },
    { "end all who use it, put a copy in its place and remove %s%s", FOLLOW, "CORRUPT: a copy takes its place" },
    { "Use the version of tidemark that wrote it, or begin a new log in another directory", LOG, "UNSUPPORTED: heads" },
    { "nothing was changed. Use the version of tidemark that wrote it", FOLLOW, "UNSUPPORTED: another file" },
    { "type %s append %s </dev/null", LOG, "NOT_FOUND: a log that was not made to its end" },
    { "give the directory of a log, a state file or a database of follow --db", APPEND, "the follower's file is given" },
    { "give a state file or a database of follow --db", RESET, "refuses a file that is not there" },
    { "give the directory of a log, which %s append makes", LOG, "NOT_FOUND: the directory of a log" },
    { "move the file that is of another log out of %s", LOG, "FOREIGN: a segment of another log" },
    { "if it is heads that is wrong, heads", LOG, "FOREIGN: heads of another log" },
    { "give the file that belongs to this log, or the log that belongs to the file", FOLLOW, "FOREIGN: the file" },
    { "restore the missing files from a copy of the log. Without one, %s", LOG, "LOST: the missing files are restored" },
    { "restore the missing files from a copy of the log. Without one, %s", LOG, "LOST: without a copy, the options" },
    { "with tidemark append add %s%s", LOG, "LOST: without a copy, the options" },
    { "with tidemark append add %s%s", LOG, "LOST in more shards than fit" },
    { ", and --shards N if it had more shards", LOG, "LOST: without heads" },
    { "type %s verify %s, which says what is wrong with the log", APPEND, "GAP" },
    { "end this follower and another one %s, put %s in the place of these and remove %s", FOLLOW, "PRUNED" },
    { "that has applied record %d", FOLLOW, "PRUNED" },
    { "copies of its effects and its file", FOLLOW, "PRUNED" },
    { "to delete the records after %d, which the log does not have, type", VERDICT, "finds that a log with other records up to" },
    { "take back the effects of its records after %d, then type", VERDICT, "finds that a log with other records up to" },
    { "end the follower, %s: %s reset %s %d:%d", VERDICT, "finds that a log with other records up to" },
    { "find out which history is right; if it is the file's, follow the log", VERDICT, "finds that a log with other records up to" },
    { "If it is this log's, %s; or begin with record 1", FOLLOW, "DIVERGED" },
    { "if the log's machine just went down, start its writer, or type %s append %s </dev/null", FOLLOW, "AHEAD: a newer copy" },
    { "restore a newer one before anything is appended to it", FOLLOW, "AHEAD: a newer copy" },
    { "now takes the place of %s, and this follower diverges", FOLLOW, "AHEAD: what is written to an older copy" },
    { "If they are lost for good, %s", FOLLOW, "AHEAD: a record that is lost" },
    { "raise the limit, type: ulimit -n $(ulimit -Hn), then start again", FOLLOW, "IO: the limit of open files" },
  },
  ["lua/tidemark/cli/append.lua"] = {
    { "and their number cannot change: leave --shards out", APPEND, "another number of shards" },
    { "once it is mended", APPEND, "it is mended, and what is to be typed keeps --key" },
    { "once it can be read", APPEND, "that cannot be read" },
    { ", append it and those after it", APPEND, "of standard input, it is mended" },
    { "%s, type: %s", APPEND, "it is mended, and standard input among" },
    { "type %s append %s </dev/null", APPEND, "the lines after those that are there" },
    { "the first N%s lines are there, append those after them", APPEND, "the lines after those that are there" },
    { "the first N%s lines are there, append those after them", APPEND, "the same when the heads were removed" },
    { "and the heads were %s before. Once the cause is gone, %s, which says what is there", APPEND, "with several shards" },
  },
  ["lua/tidemark/cli/follow.lua"] = {
    { "say where the marks are kept: --db FILE, or --state FILE with", APPEND, "where the marks are kept" },
    { "say what is done with the records: --exec CMD or --print", APPEND, "where the marks are kept" },
    { "--exec and --print go with --state", APPEND, "where the marks are kept" },
  },
  ["lua/tidemark/cli/init.lua"] = { { "(what is shown stands before --watch)", APPEND, "the follower's file is given" } },
  ["lua/tidemark/cli/inspect.lua"] = { { "end all who have it open and look at the disk", APPEND, "after a sync that failed" } },
  ["lua/tidemark/cli/reset.lua"] = { { "has the heads of a log: give the file of a follower", RESET, "refuses the heads of a log" } },
  ["lua/tidemark/cli/salvage.lua"] = {
    { "Followers of the old log must begin again with the new one (FOREIGN)", LOG, "CORRUPT: a segment " },
    { "give --shards N as when it was made", SALVAGE, "without heads: the shards are named" },
  },
  ["lua/tidemark/cli/status.lua"] = { { "give the follower's file and --log DIR", APPEND, "the follower's file is given" } },
  ["lua/tidemark/cli/typed.lua"] = {
    { "install libsqlite3-dev, then type make in the source directory of tidemark", APPEND, "those of tidemark are built" },
  },
  ["lua/tidemark/follower.lua"] = { { "call stop", STATE, "close from inside apply" } },
  ["lua/tidemark/follower/call.lua"] = { { "it must return true once its effect is durable", STATE, "it must return true" } },
  ["lua/tidemark/follower/setup.lua"] = { { "is a FollowerDb: give db:target(fn)", STATE, "a FollowerDb: its target is given" } },
  ["lua/tidemark/follower_db.lua"] = {
    { "it has been reset; open it again", STATE, "REPLACED: it has been reset" },
    { "the shard can be reset to record %d or above, or to 0", STATE, "NOT_FOUND at a reset: the seqno" },
  },
  ["lua/tidemark/protected.lua"] = { { "yielded: it must do its work before it returns", STATE, "it must do its work" } },
  ["lua/tidemark/replication_state.lua"] = {
    { "the lowest seqno to which the shard can be reset is %d, or else 0", STATE, "NOT_FOUND at a reset: the seqno" },
    { "the shard can only be reset to 0", STATE, "NOT_FOUND at a reset: the seqno" },
  },
  ["lua/tidemark/salvage.lua"] = {
    { "has changed since it was read, so a writer is at work: end it first", SALVAGE, "LOCKED: the writer is ended, where a segment" },
    { "if none is at work, remove it and begin again", SALVAGE, "a salvage that was cut off" },
    { "is not empty: remove it, or name a directory that is not there yet", SALVAGE, "a place that is taken" },
    { "which is left as it is: name another place", SALVAGE, "a place inside the log" },
    { "is log %08x, but %s is log %08x: leave it out", SALVAGE, "FOREIGN: another log in --from" },
  },
  ["lua/tidemark/salvage/scan.lua"] = {
    { "was removed while the log was read, so a writer is at work: end it", SALVAGE, "LOCKED: the writer is ended, where segments" },
    { "there are segments of two histories, take the wrong ones away", SALVAGE, "DIVERGED: the segments of the wrong history" },
  },
  ["lua/tidemark/salvage/survey.lua"] = {
    { "take away the one that does not belong there", SALVAGE, "FOREIGN: a segment of another log" },
    { "has changed while it was read (%s), so a writer is at work: end it first", SALVAGE, "LOCKED: the writer is ended, where heads" },
  },
}

-- Patterns of texts that have the words of an advice and are none: why.
local EXCEPTIONS = {
  { "^SELECT ", "SQL" },
  { "^BEGIN IMMEDIATE$", "SQL" },
  { "^DELETE FROM ", "SQL" },
  { "^REPLACE INTO ", "SQL" },
  { "^UPDATE ", "SQL" },
  { "%f[%a]must be%f[%A]", "what an argument of a call must be, or a setting of SQLite: the mistake of a program, which raises" },
  { "must end in a file name$", "the same" },
  { "^%u", "the help of the command line, which is asked for", "lua/tidemark/cli/init.lua" },
  { "^close is called from inside fn$", "what has happened" },
  { "^shard %%d: reset from ", "what has happened" },
}

-- A sentence, or a part of one, that begins with one of these is an advice; so is "must" anywhere.
local VERBS = {}
for verb in ([[accept add append ask begin call change check choose close copy delete do drop edit enable end ensure find fix follow
  free give increase inspect install kill leave let look lower make mend move name open pass pick provide put raise read remove rename
  repair repeat replace report reset restore retry run salvage say see select set specify start stop supply take try turn type update
  upgrade use
  verify wait write]]):gmatch "%a+" do
  VERBS[verb] = true
end

-- What may be before the verb.
local LINKS = { ["and"] = true, ["or"] = true, ["then"] = true, now = true, so = true, please = true, just = true, there = true }

local function advises(text)
  text = ". " .. text:lower()
  for at, word in text:gmatch "()%f[%a](%a+)%f[%A]" do
    local before = text:sub(1, at - 1)
    local link = before:match "%f[%a](%a+)%s+$"
    if word == "must" or VERBS[word] and (before:find "[.:;,?(]%s*$" or LINKS[link]) then
      return text:find(" ", 3, true) ~= nil -- one word is a name
    end
  end
  return false
end

local function is_exception(path, text)
  for _, exception in ipairs(EXCEPTIONS) do
    if text:find(exception[1]) and (not exception[3] or exception[3] == path) then
      return true
    end
  end
  return false
end

local function has_entry(path, text)
  for _, entry in ipairs(TABLE[path] or {}) do
    if text:find(entry[1], 1, true) then
      return true
    end
  end
  return false
end

local sources = {}
local pipe = io.popen "ls bin/tidemark csrc/*/*.c; find lua -name '*.lua' | sort"
for path in pipe:lines() do
  sources[path] = literals.of(command_line.read(path), not path:find "%.c$")
end
pipe:close()

describe("a message that advises", function()
  it("is in the table, with its test", function()
    local missing = {}
    for path, texts in pairs(sources) do
      for _, one in ipairs(texts) do
        if advises(one.text) and not has_entry(path, one.text) and not is_exception(path, one.text) then
          missing[#missing + 1] = ("%s:%d: %s"):format(path, one.line, one.text)
        end
      end
    end
    assert.same({}, missing)
  end)

  it("is found by its words", function()
    for _, text in ipairs { "%s: it is gone: open it again", "Restore it", "look, then start again", "it must go", "go on and close it",
      "all whole; now start it", "it is gone (open it again)" } do
      assert.is_true(advises(text), text)
    end
    for _, text in ipairs { "cannot open it", "the shard has stopped", "open", "it was closed" } do
      assert.is_false(advises(text), text)
    end
  end)

  for path, entries in pairs(TABLE) do
    it("is in its source as the table has it: " .. path, function()
      for _, entry in ipairs(entries) do
        local found = false
        for _, one in ipairs(sources[path] or {}) do
          found = found or one.text:find(entry[1], 1, true) ~= nil
        end
        assert(found, entry[1])
      end
    end)

    it("has the test that the table names: " .. path, function()
      for _, entry in ipairs(entries) do
        local spec = assert(command_line.read(entry[2]))
        local found = entry[2]:find "%.c$" and spec:find("RUN(" .. entry[3] .. ")", 1, true)
          or spec:find('it("' .. entry[3], 1, true) or spec:find('it(("' .. entry[3], 1, true)
        assert(found, ("%s: no test '%s'"):format(entry[2], entry[3]))
      end
    end)
  end

  it("needs every exception", function()
    for _, exception in ipairs(EXCEPTIONS) do
      local used = false
      for path, texts in pairs(sources) do
        for _, one in ipairs(texts) do
          used = used or advises(one.text) and not has_entry(path, one.text) and one.text:find(exception[1]) ~= nil
            and (not exception[3] or exception[3] == path)
        end
      end
      assert(used, exception[1])
    end
  end)
end)

-- What docs/reference.md tells to do about a code, as words of it, and the test that does it.
local CODES = {
  UNKNOWN_SHARD = { "name it in `new` or `open`", STATE, "UNKNOWN_SHARD" },
  CORRUPT = { "Restore a copy", FOLLOW, "CORRUPT: a copy takes its place" },
  UNSUPPORTED = { "Use the version of tidemark that wrote it, or begin again in another file", FOLLOW, "UNSUPPORTED: another file" },
  NOT_FOUND = { "the message says which seqno is possible", STATE, "NOT_FOUND at a reset" },
  DENIED = { "name the file itself, or open it as that user", STATE, "DENIED: another user's file" },
  BUSY = { "end it first", STATE, "BUSY: the live file was deleted" },
  REPLACED = { "close and open again", STATE, "REPLACED: it is closed and opened again" },
  POISONED = { "close in every process, look at the disk, open again", STATE, "IO and POISONED" },
  FORKED = { "close there; a state may be opened again there", STATE, "FORKED: the child closes it" },
  LOCKED = { "end it first", APPEND, "LOCKED: the other writer" },
  TIMEOUT = { "ask again", STATE, "TIMEOUT" },
  AHEAD = { "ask again when the log has it", FOLLOW, "AHEAD: a newer copy" },
  FENCED = { "leave the epoch out, or give a higher one", WAL, "FENCED" },
  LOST = { "restore the files or, if the records are gone for good, `accept_loss`", WAL, "LOST: without a copy" },
  FOREIGN = { "move the file away and restore the right one, or give the follower its log", LOG, "FOREIGN: a segment" },
  PRUNED = { "begin from a newer copy of the data", FOLLOW, "PRUNED" },
  GAP = { "look why the source skips them", STATE, "GAP" },
  DIVERGED = { "go back to that one with `reset`, or begin with a new copy", VERDICT, "finds that a log with" },
  APPLY_FAILED = { "make a new follower once the cause is gone", STATE, "it must return true" },
  INTERRUPTED = { "wait again", STATE, "INTERRUPTED" },
}

-- These need nothing to be done, or say only what the system said.
local NOTHING_TO_DO = { IO = true, END = true, READONLY = true, raises = true }

describe("docs/reference.md", function()
  local rows = markdown.table_after(command_line.read "docs/reference.md", "## Error codes")

  it("tells for each error code what is tested, and each test is there", function()
    local seen = {}
    for _, row in ipairs(rows) do
      local code = row[1]:match "%a[%a_]+"
      local entry = CODES[code]
      if entry then
        assert(row[3]:find(entry[1], 1, true), ("%s: '%s' is not in: %s"):format(code, entry[1], row[3]))
        local spec = command_line.read(entry[2])
        assert(spec:find('it("' .. entry[3], 1, true) or spec:find('it(("' .. entry[3], 1, true), entry[3])
      else
        assert(NOTHING_TO_DO[code] or code == "Lua", code)
      end
      seen[code] = true
    end
    for code in pairs(CODES) do
      assert(seen[code], code)
    end
  end)
end)
