--- The advice of the command line on a follower's file, typed as it is printed, for --state and for --db. Each record must take effect
--- once in a database, and at least once with --exec. spec/advice_spec.lua has the table of all messages; spec/cli_verdict_spec.lua
--- types the advice on DIVERGED.

local Wal = require "tidemark.wal"
local advice = require "spec.support.advice"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local has_sqlite, sqlite = pcall(require, "tidemark.sqlite")

local run, run_with, expect = command_line.run, command_line.run_with, command_line.expect

for _, kind in ipairs { "state", has_sqlite and "db" or nil } do
  describe(("advice on --%s:"):format(kind), function()
    local directory, log, file, out

    before_each(function()
      directory = sandbox.tempdir()
      log, file, out = directory .. "/log", directory .. "/the file", directory .. "/effects"
    end)
    after_each(sandbox.cleanup)

    local function sh(command, ...)
      assert(os.execute(command:format(...)))
    end

    local function append(input, ...)
      expect(0, run_with(input, "append", log, ...))
    end

    -- The effect of a record is a file of its name.
    local function options(...)
      if kind == "db" then
        return "--db", file, ...
      end
      return "--state", file, "--exec", ("mkdir -p '%s' && cd '%s' && cat > list && xargs touch < list && rm list"):format(out, out), ...
    end

    local function follow(...)
      return run("follow", log, options("--once", ...))
    end

    -- The records that took effect.
    local function effects()
      if kind == "state" then
        return command_line.list(out)
      end
      local database, records = assert(sqlite.open(file, { readonly = true })), {}
      for record in assert(database:rows "SELECT record FROM records ORDER BY record") do
        records[#records + 1] = record
      end
      database:close()
      return table.concat(records, " ")
    end

    local function status()
      return (advice.taken(run("status", file, "--log", log, "--json").out, '"verdict":"([%w_]+)"'))
    end

    local beside = kind == "db" and { "-wal", "-shm" } or { ".live" }

    -- Puts the copy in the place of the file, and removes the files that the message names: those beside it.
    local function replace(result, from)
      local removed = advice.taken(result.err, "and remove ([^\n;]+)")
      local words = {}
      for number, suffix in ipairs(beside) do
        words[number] = ("'%s%s'"):format(file, suffix)
      end
      assert.equal(table.concat(words, " and "), removed)
      sh("cp '%s' '%s' && rm -f %s", from, file, (removed:gsub(" and ", " ")))
    end

    -- ---- the file ----

    for what, damage in pairs {
      ["with a damaged header"] = function()
        command_line.patch(file, 0, ("X"):rep(100))
      end,
      ["cut off"] = function()
        sh("truncate -s 50 '%s'", file)
      end,
    } do
      it("CORRUPT: a copy takes its place, " .. what, function()
        append "a\nb\n"
        expect(0, follow())
        sh("cp '%s' '%s/copy'", file, directory)
        append "c\n"
        expect(0, follow())
        damage()
        local result = follow()
        expect(1, result, "nothing was changed. If it is the right file, end all who use it")
        assert.truthy(result.err:find "%(CORRUPT%)" or kind == "db" and result.err:find "%(NOTADB%)", result.err)
        local shown = run("status", file, "--log", log)
        expect(1, shown, "nothing was changed. If it is the right file, end all who use it")
        replace(result, directory .. "/copy")
        append "d\n"
        expect(0, follow())
        assert.equal("a b c d", effects())
        assert.equal("ok", status())
      end)
    end

    it("CORRUPT: another file begins with record 1", function()
      append "a\nb\n"
      expect(0, follow())
      sh("truncate -s 50 '%s'", file)
      local option = advice.taken(follow().err, "or begin with record 1 in another file, (%-%-%a+) FILE")
      assert.equal("--" .. kind, option)
      file = directory .. "/another"
      expect(0, follow())
      assert.equal("a b", effects())
    end)

    it("UNSUPPORTED: another file begins with record 1, and the old one is as it was", function()
      append "a\nb\n"
      if kind == "db" then
        local database = assert(sqlite.open(file))
        assert(database:exec "CREATE TABLE tidemark_progress ( -- version 1\n shard INTEGER PRIMARY KEY)")
        database:close()
      else
        expect(0, follow())
        local crc32c = require "spec.support.crc32c"
        local header = command_line.read(file):sub(1, 60)
        header = header:sub(1, 8) .. "\9" .. header:sub(10)
        command_line.patch(file, 0, header .. ("<I4"):pack(crc32c(header)))
      end
      local before = command_line.read(file)
      local result = follow()
      expect(1, result, "version", "(UNSUPPORTED): nothing was changed. Use the version of tidemark that wrote it")
      assert.equal(before, command_line.read(file))
      local option = advice.taken(result.err, "or begin with record 1 in another file, (%-%-%a+) FILE")
      assert.equal("--" .. kind, option)
      file = directory .. "/another"
      expect(0, follow())
      assert.equal("a b", effects())
    end)

    it("REPLACED: it is started again", function()
      append "a\nb\n"
      expect(0, follow())
      local child = command_line.start("follow", log, options())
      append "c\n"
      child:wait_until(function()
        return effects() == "a b c"
      end, "did not follow", command_line.PATIENCE)
      if kind == "state" then
        assert(os.remove(file .. ".live"))
      else
        local db = assert(require("tidemark.follower_db").open(file, { 0 }))
        assert(db:reset(0, 1, function(connection)
          return connection:exec "DELETE FROM records WHERE seqno > 1"
        end))
        db:close()
      end
      append "d\n"
      local result = command_line.finish(child)
      expect(3, result, "(REPLACED): the files were replaced while they were open: start again")
      expect(0, follow())
      assert.equal("a b c d", effects())
    end)

    -- ---- the log ----

    it("FOREIGN: the file that belongs to the log, the log that belongs to the file, or a new file", function()
      append "a\nb\n"
      expect(0, follow())
      local own, mine = log, file
      log = directory .. "/other"
      append "x\n"
      local result = follow()
      expect(3, result, "(FOREIGN): give the file that belongs to this log, or the log that belongs to the file")
      expect(3, run("status", file, "--log", log), "(FOREIGN): give the file that belongs to this log")
      local option = advice.taken(result.err, "a new file, (%-%-%a+) FILE, begins with record 1")
      assert.equal("--" .. kind, option)
      file = directory .. "/another" -- a new file
      sh("rm -rf '%s'", out)
      expect(0, follow())
      assert.equal("x", effects())
      append "y\n" -- the file that belongs to this log
      expect(0, follow())
      assert.equal("x y", effects())
      log, file = own, mine -- the log that belongs to the file
      append "c\n"
      expect(0, follow())
      assert.equal(kind == "db" and "a b c" or "c x y", effects())
    end)

    it("AHEAD: a newer copy of the log, or its writer is started after the machine went down", function()
      append "a\nb\n"
      sh("cp -a '%s' '%s/old'", log, directory)
      append "c\n"
      expect(0, follow())
      sh("cp -a '%s' '%s/new' && rm -r '%s' && cp -a '%s/old' '%s'", log, directory, log, directory, log)
      local result = follow()
      for _, said in ipairs { result, run("status", file, "--log", log) } do
        expect(3, said, "(AHEAD): if the log's machine just went down, start its writer", "If the log was restored from an older copy, "
          .. "restore a newer one before anything is appended to it: what is written now takes the place of record 3, and this follower "
          .. "diverges. If they are lost for good, end the follower, ")
      end
      sh("rm -r '%s' && cp -a '%s/new' '%s'", log, directory, log)
      expect(0, follow())
      -- the segments are there, but the heads are those of the last checkpoint
      sh("cp '%s/old/heads' '%s' && rm '%s/heads.live'", directory, log, log)
      result = follow()
      expect(3, result, "(AHEAD)")
      expect(0, advice.type(result, "start its writer, or type ([^\n]- </dev/null), and recovery may"))
      append "d\n"
      expect(0, follow())
      assert.equal("a b c d", effects())
    end)

    it("AHEAD: what is written to an older copy takes the place of the records, and the follower diverges", function()
      append "a\nb\n"
      sh("cp -a '%s' '%s/old'", log, directory)
      append "c\nd\n"
      expect(0, follow())
      sh("rm -r '%s' && cp -a '%s/old' '%s'", log, directory, log)
      expect(3, follow(), "what is written now takes the place of records 3..4, and this follower diverges")
      append "e\n"
      expect(3, follow(), "both histories are the same up to record 2 (DIVERGED)")
    end)

    it("AHEAD: a record that is lost for good is taken back", function()
      append "a\nb\n"
      append "c\n"
      append "d\n"
      expect(0, follow())
      sh("cd '%s' && rm *03.wal *04.wal", log)
      local result = run("append", log)
      expect(1, result, "(LOST)")
      expect(0, run("append", log, table.unpack(advice.options(result))))
      result = follow()
      expect(3, result, "(AHEAD)", "If they are lost for good, ")
      if kind == "state" then
        advice.said(result.err, "take back the effects of its records after 2, then type: ")
        sh("cd '%s' && rm c d", out)
      end
      expect(0, advice.type(result, "If they are lost for good, [^\n]-type: ([^\n]+)"))
      append "e\n"
      expect(0, follow())
      assert.equal("a b e", effects())
      assert.equal("ok", status())
    end)

    it("DIVERGED: what is to be typed works where lua does not find the modules", function()
      append "a\nb\n"
      sh("cp -a '%s' '%s/old'", log, directory)
      append "c\n"
      expect(0, follow())
      sh("rm -r '%s' && cp -a '%s/old' '%s'", log, directory, log)
      append "d\n"
      local bare = "unset LUA_PATH LUA_CPATH LUA_PATH_5_4 LUA_CPATH_5_4 LUA_PATH_5_3 LUA_CPATH_5_3; "
      local shown = command_line.run_shell(bare .. command_line.shell("follow", log, options "--once"))
      expect(3, shown, "(DIVERGED): find out which history is right; if it is the file's, follow the log that has it. "
        .. "If it is this log's, ")
      if kind == "state" then
        sh("rm '%s/c'", out)
      end
      expect(0, command_line.run_shell(bare .. advice.taken(shown.err, "type: (.-); or begin with record 1")))
      expect(0, follow())
      assert.equal("a b d", effects())
    end)

    it("PRUNED: a copy of another follower's file takes its place", function()
      local function write(first, last)
        local wal = assert(Wal.open(log, { shards = { 0 }, segment_bytes = 200 }))
        for seqno = first, last do
          assert(wal:append(0, { ("%02d"):format(seqno) }))
        end
        assert(wal:close())
      end
      local mine, newer, expected = { file, out }, { directory .. "/newer", directory .. "/newer effects" }, {}
      for seqno = 1, 31 do
        expected[seqno] = ("%02d"):format(seqno)
      end
      write(1, 5)
      expect(0, follow())
      write(6, 30)
      file, out = newer[1], newer[2]
      expect(0, follow())
      file, out = mine[1], mine[2]
      assert(Wal.prune(log, 0, 20) > 0)
      local result = follow()
      local what = kind == "db" and "a copy of its file" or "copies of its effects and its file"
      for _, said in ipairs { result, run("status", file, "--log", log) } do
        expect(3, said, "(PRUNED): begin again from a newer copy of the data: end this follower and another one that has applied record ",
          (", put %s in the place of these and remove"):format(what))
        local first = math.tointeger(tonumber(advice.taken(said.err, "the log begins with (%d+)")))
        local enough = math.tointeger(tonumber(advice.taken(said.err, "that has applied record (%d+), put")))
        assert.equal(first - 1, enough)
        assert(enough <= 30)
      end
      replace(result, newer[1])
      if kind == "state" then
        sh("rm -r '%s' && cp -r '%s' '%s'", out, newer[2], out)
      end
      write(31, 31)
      expect(0, follow())
      assert.equal(table.concat(expected, " "), effects())
    end)

    it("IO: the limit of open files is raised", function()
      local lines = {}
      for number = 100, 999 do
        lines[#lines + 1] = ("%d"):format(number)
      end
      append(table.concat(lines, "\n") .. "\n", "--shards", "64")
      local limited = ("ulimit -Sn 40; %s"):format(command_line.shell("follow", log, options "--once"))
      local words = command_line.words(advice.FAST_CLOCK, "follow", log, options "--once")
      for i, word in ipairs(words) do
        words[i] = "'" .. word:gsub("'", "'\\''") .. "'"
      end
      local result = command_line.run_shell("ulimit -Sn 40; " .. table.concat(words, " "))
      advice.said(result.err, "Too many open files", ": raise the limit, type: ")
      local raise = advice.taken(result.err, "raise the limit, type: ([^\n,]+), then start again")
      expect(0, command_line.run_shell(limited:gsub("^ulimit %-Sn 40", "ulimit -Sn 40; " .. raise)))
      assert.equal(table.concat(lines, " "), effects())
    end)

    if kind == "state" then
      it("BUSY: the process that has the old file open is ended", function()
        append "a\n"
        local child = command_line.start("follow", log, options())
        child:wait_until(function()
          return command_line.read(out .. "/a")
        end, "did not follow", command_line.PATIENCE)
        assert(os.remove(file .. ".live"))
        expect(1, follow(), "end that process first (BUSY): end the processes that have it open, then try again")
        child:signal_with "sigterm"
        command_line.finish(child)
        append "b\n"
        expect(0, follow())
        assert.equal("a b", effects())
      end)

      it("LOCKED: the other follower is ended", function()
        append "a\n"
        local child = command_line.start("follow", log, options())
        child:wait_until(function()
          return command_line.read(out .. "/a")
        end, "did not follow", command_line.PATIENCE)
        expect(1, follow(), "(LOCKED): end the other one first")
        child:signal_with "sigterm"
        expect(0, command_line.finish(child))
        append "b\n"
        expect(0, follow())
        assert.equal("a b", effects())
      end)

      it("POISONED: all are ended, the disk is mended, and it is started again", function()
        append "a\n"
        expect(0, follow())
        local sick = directory .. "/sick"
        local words = advice.sick_disk(directory, sick)
        table.move(command_line.words(nil, "follow", log, options()), 1, 20, #words + 1, words)
        local child = sandbox.spawn(words, true)
        append "b\n"
        child:wait_until(function()
          return command_line.read(out .. "/b")
        end, "did not follow", command_line.PATIENCE)
        command_line.write(sick, "")
        append "c\n"
        expect(3, command_line.finish(child), "(POISONED): end all who have it open, look at the disk, then start again")
        assert(os.remove(sick))
        expect(0, follow())
        assert.equal("a b c", effects())
      end)
    else
      it("BUSY: the process that has it locked is ended", function()
        append "a\n"
        local other = assert(sqlite.open(file))
        assert(other:exec "BEGIN IMMEDIATE")
        expect(1, follow(), "(BUSY): end the processes that have it open, then try again")
        other:close()
        expect(0, follow())
        assert.equal("a", effects())
      end)
    end

  end)
end
