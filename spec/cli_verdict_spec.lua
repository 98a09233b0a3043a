--- tidemark follow and tidemark status with a log that is not the one, or not as far as the one, that was followed; and that their advice
--- is right when it is typed.

local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local has_sqlite, sqlite = pcall(require, "tidemark.sqlite")

local run, expect = command_line.run, command_line.expect

-- Makes the pauses between attempts, 25 s altogether, a hundred times shorter.
local FAST_CLOCK = [[
  local clock = require("tidemark.core").clock
  local now, sleep = clock.now, clock.sleep
  clock.now = function() return now() * 100 end
  clock.sleep = function(seconds) sleep(seconds / 100) end
]]

for _, kind in ipairs { "state", has_sqlite and "db" or nil } do
  describe(("a follower with --%s"):format(kind), function()
    local directory, log, copy, file, out

    before_each(function()
      directory = sandbox.tempdir()
      log, copy, file, out = directory .. "/log", directory .. "/copy", directory .. "/it's 1% file", directory .. "/out"
    end)
    after_each(sandbox.cleanup)

    -- Appends first..last, each line beginning with `word`, as one epoch.
    local function append(word, first, last, ...)
      local lines = {}
      for seqno = first, last do
        lines[#lines + 1] = ("%s %d\n"):format(word, seqno)
      end
      assert.equal(0, command_line.run_with(table.concat(lines), "append", log, "--batch", "3", ...).code)
    end

    local function options(...)
      if kind == "db" then
        return "--db", file, ...
      end
      return "--state", file, "--exec", ("cat >> '%s'"):format(out), ...
    end

    local function follow(...)
      return run("follow", log, options("--once", ...))
    end

    -- What took effect, as lines, in the order of the seqnos.
    local function effects()
      if kind == "state" then
        return command_line.read(out) or ""
      end
      local database, lines = assert(sqlite.open(file, { readonly = true })), {}
      for record in assert(database:rows "SELECT record FROM records ORDER BY shard, seqno") do
        lines[#lines + 1] = record .. "\n"
      end
      database:close()
      return table.concat(lines)
    end

    local function lines(word, first, last)
      local result = {}
      for seqno = first, last do
        result[#result + 1] = ("%s %d\n"):format(word, seqno)
      end
      return table.concat(result)
    end

    local function sh(command, ...)
      assert(shell.run(command:format(...)))
    end

    local function keep_copy()
      sh("rm -rf '%s' && cp -a '%s' '%s'", copy, log, copy)
    end

    -- The copy takes the place of the log.
    local function restore()
      sh("rm -rf '%s' && cp -a '%s' '%s'", log, copy, log)
    end

    -- The only shard's verdict as status shows it, with --json: what it says of the shard, and its exit code.
    local function status()
      local result = run("status", file, "--log", log, "--json")
      local shown = run("status", file, "--log", log)
      local verdict = result.out:match '"verdict":"([%w_]+)"'
      assert.equal(result.code, shown.code)
      assert.truthy(shown.out:find("\n    0 .*" .. verdict), shown.out)
      assert.equal(verdict == "ok" or verdict == "unknown", result.out:find('"lag"', 1, true) ~= nil)
      return verdict, result.code, math.tointeger(tonumber(result.out:match '"common":(%d+)')), result.err
    end

    it("is ok", function()
      append("a", 1, 10)
      expect(0, follow(), "10 of 10 applied, lag 0")
      assert.equal("ok", (status()))
      append("b", 11, 12)
      local shown = run("status", file, "--log", log)
      assert.equal("shard  applied  head  lag  verdict  applied of head\n    0       10    12    2  ok       [################----]\n",
        shown.out)
      assert.same({ 0, "" }, { shown.code, shown.err })
    end)

    it("waits for a log that ends before its position, and goes on when that has the records again", function()
      append("a", 1, 10)
      keep_copy()
      append("b", 11, 20)
      expect(0, follow())
      sh("mv '%s' '%s.whole'", log, log)
      restore()
      local why = "record 20 is the last one applied, but the log ends at record 10: it has lost records, or nobody has opened it for "
        .. "writing since its machine went down"
      local result = follow()
      expect(3, result, "shard 0: " .. why .. "; the shard waits\n", "20 applied; 0 batches in this run",
        "shard 0 waits, ahead_of_source: shard 0: " .. why .. " (AHEAD): if the log's machine just went down, start its writer")
      local verdict, code, _, message = status()
      assert.same({ "ahead_of_source", 3 }, { verdict, code })
      local todo = " (AHEAD): if the log's machine just went down, start its writer"
      assert.truthy(message:find("shard 0: ahead_of_source: " .. why .. todo, 1, true), message)

      local child = command_line.start("follow", log, options())
      child:wait_until(function()
        return child.errors:find("the shard waits", 1, true)
      end, "did not say that it waits", command_line.PATIENCE)
      sh("mv '%s' '%s.old' && mv '%s.whole' '%s'", log, log, log, log)
      append("c", 21, 22)
      child:wait_until(function()
        return effects():find "c 22"
      end, "did not go on", command_line.PATIENCE)
      child:signal_with "sigterm"
      result = command_line.finish(child)
      expect(0, result, "shard 0: the source has reached record 20, and the shard goes on\n", "22 of 22 applied, lag 0")
      assert.equal(1, select(2, result.err:gsub("the shard waits", "")))
      assert.equal(lines("a", 1, 10) .. lines("b", 11, 20) .. lines("c", 21, 22), effects())
      assert.equal("ok", (status()))
    end)

    it("ends well on a signal while it waits", function()
      append("a", 1, 2)
      keep_copy()
      append("b", 3, 4)
      expect(0, follow())
      restore()
      local child = command_line.start("follow", log, options())
      child:wait_until(function()
        return child.errors:find("the shard waits", 1, true)
      end, "did not say that it waits", command_line.PATIENCE)
      child:signal_with "sigint"
      assert.equal(0, command_line.finish(child).code)
    end)

    -- The log that was restored has other records after 10, and ends before the position, at it, or after it.
    for _, last in ipairs { 15, 20, 25 } do
      it(("finds that a log with other records up to %d has diverged, and its advice is right"):format(last), function()
        append("a", 1, 10)
        keep_copy()
        append("b", 11, 20)
        expect(0, follow())
        restore()
        append("c", 11, last)
        local result = follow()
        expect(3, result, "shard 0 has stopped, diverged", "both histories are the same up to record 10 (DIVERGED)",
          "20 applied; 0 batches in this run")
        assert.equal(lines("a", 1, 10) .. lines("b", 11, 20), effects())
        local verdict, code, common, message = status()
        assert.same({ "diverged", 3, 10 }, { verdict, code, common })
        assert.truthy(message:find("shard 0: diverged: record ", 1, true), message)
        -- one way: with another file
        local old = file
        file = directory .. "/another"
        expect(0, run("follow", log, "--state", file, "--print", "--once"))
        file = old
        -- the other way, by typing it
        local command = result.err:match "type: (.-); or begin with record 1 in another file, %-%-[a-z]+ FILE\n"
        assert(command, result.err)
        if kind == "state" then
          assert.truthy(result.err:find("take back the effects of its records after 10, then type", 1, true))
          command_line.write(out, lines("a", 1, 10))
        end
        assert(message:find(command, 1, true), message)
        expect(0, command_line.run_shell(command))
        expect(0, follow(), ("%d of %d applied, lag 0"):format(last, last))
        assert.equal(lines("a", 1, 10) .. lines("c", 11, last), effects())
        assert.equal("ok", (status()))
      end)
    end

    it("finds that nothing is common, and begins again from record 1 by typing what it says", function()
      append("a", 1, 1)
      sh("cp -a '%s' '%s'", log, copy)
      append("b", 2, 2)
      expect(0, follow())
      -- the same log without its first records: another record 1
      sh("rm '%s'/*.wal", copy)
      restore()
      assert.equal(1, command_line.run_with("x\n", "append", log).code)
      expect(0, command_line.run_with("x 1\n", "append", log, "--accept-loss", "0:0"))
      expect(0, command_line.run_with("x 2\nx 3\n", "append", log))
      local result = follow()
      expect(3, result, "no record is proved to be the same in both histories (DIVERGED)")
      assert.equal(0, (select(3, status())))
      expect(0, command_line.run_shell(assert(result.err:match "type: (.-); or begin")))
      sh("rm -f '%s'", out)
      expect(0, follow())
      assert.equal(lines("x", 1, 3), effects())
    end)

    it("goes on where a leader whose clock is behind has the same history, and has nothing of an epoch that gave way", function()
      append("a", 1, 1, "--epoch", "100")
      keep_copy()
      append("b", 2, 2, "--epoch", "1000")
      local refuse = kind == "state" and "test $TIDEMARK_FIRST_SEQNO = 1 && cat >> '" .. out .. "'"
      if refuse then
        local words = command_line.words(FAST_CLOCK, "follow", log, "--state", file, "--exec", refuse, "--once")
        expect(3, command_line.run_words(words), "shard 0 has stopped, failed")
      else
        restore()
        expect(0, follow())
      end
      restore()
      append("c", 2, 3, "--epoch", "500")
      local result = follow()
      expect(0, result, "3 of 3 applied, lag 0")
      assert.equal(refuse ~= false, result.err:find("shard 0: epoch 1970-01-01T00:00:00Z#000003e8 was noted and gives way to epoch "
        .. "1970-01-01T00:00:00Z#000001f4: effects of its records may be there, from record 2 on\n", 1, true) ~= nil, result.err)
      assert.equal(lines("a", 1, 1) .. lines("c", 2, 3), effects())
    end)

    it("tells how far histories are common over seven and eight epochs", function()
      for count = 7, 8 do
        sh("rm -rf '%s' '%s' '%s'* '%s'", log, copy, (file:gsub("'", "'\\''")), out)
        for seqno = 1, count do
          append("a", seqno, seqno)
          sh("rm -rf '%s.%d' && cp -a '%s' '%s.%d'", copy, seqno, log, copy, seqno)
        end
        expect(0, follow())
        for seqno = 1, count - 1 do
          sh("rm -rf '%s' && cp -a '%s.%d' '%s'", log, copy, seqno, log)
          append("x", seqno + 1, count + 2)
          local verdict, code, common = status()
          local known = kind == "db" or seqno > count - 7
          assert.same({ "diverged", 3, known and seqno or 0 }, { verdict, code, common })
        end
      end
    end)

    it("stops where the next record was pruned", function()
      local wal = assert(Wal.open(log, { shards = { 0 }, segment_bytes = 200 }))
      for seqno = 1, 5 do
        assert(wal:append(0, { ("a %d"):format(seqno) }))
      end
      assert(wal:close())
      expect(0, follow())
      wal = assert(Wal.open(log, { shards = { 0 }, segment_bytes = 200 }))
      for seqno = 6, 30 do
        assert(wal:append(0, { ("a %d"):format(seqno) }))
      end
      assert(wal:close())
      assert(Wal.prune(log, 0, 20) > 0)
      expect(3, follow(), "shard 0 has stopped, gap: shard 0: the records after 5 are missing: ", "(PRUNED): begin again from a newer copy")
      local verdict, code, _, message = status()
      assert.same({ "behind_retention", 3 }, { verdict, code })
      assert.truthy(message:find("shard 0: behind_retention: ", 1, true), message)
      assert.equal(lines("a", 1, 5), effects())
      file = directory .. "/another" -- which has nothing yet
      expect(3, follow(), "shard 0 has stopped, gap: shard 0: the records after 0 are missing: ")
      assert.same({ "behind_retention", 3 }, { (status()), (select(2, status())) })
    end)

    it("refuses another log as a whole, also the shards of which it has nothing", function()
      expect(0, command_line.run_with("a\nb\n", "append", log, "--shards", "4")) -- of some shard nothing
      local out_before = expect(0, follow(), "2 of 2 applied")
      local had = effects()
      for _, input in ipairs { "", ("a\nb\nc\nd\ne\nf\ng\nh\n"):rep(4) } do
        sh("rm -r '%s'", log)
        expect(0, command_line.run_with(input, "append", log, "--shards", "4"))
        local result = follow()
        expect(3, result, file .. " follows log ", ", the source is log ", " (FOREIGN): give the file that belongs to this log")
        assert.equal(1, select(2, result.err:gsub("FOREIGN", "")), result.err)
        assert.is_nil(result.err:find "shard")
        assert.equal(had, effects())
        local shown = run("status", file, "--log", log, "--json")
        assert.equal(3, shown.code)
        assert.equal(4, select(2, shown.out:gsub('"verdict":"foreign"', "")))
        assert.equal(1, select(2, shown.err:gsub("FOREIGN", "")))
        assert.truthy(shown.err:find(file .. " follows log ", 1, true), shown.err)
      end
      assert.equal("", out_before)
      local old = file
      file = directory .. "/another" -- as it says
      expect(0, follow())
      file = old
    end)

    it("finds a divergence while it runs", function()
      append("a", 1, 10)
      keep_copy()
      append("b", 11, 20)
      local child = command_line.start("follow", log, options())
      child:wait_until(function()
        local seen = pcall(effects) and effects() or ""
        return seen:find "b 20"
      end, "did not follow", command_line.PATIENCE)
      sh("mv '%s' '%s.old' && mv '%s' '%s'", log, log, copy, log)
      append("c", 11, 15)
      expect(3, command_line.finish(child), "both histories are the same up to record 10 (DIVERGED)")
      assert.equal(lines("a", 1, 10) .. lines("b", 11, 20), effects())
    end)

    it("shows verdicts again and again with --watch", function()
      append("a", 1, 1)
      keep_copy()
      append("b", 2, 2)
      expect(0, follow())
      restore()
      local child = command_line.start("status", file, "--log", log, "--json", "--watch", "0.01")
      for _ = 1, 3 do
        assert.truthy(child:read_line(command_line.PATIENCE):find("ahead_of_source", 1, true))
      end
      child:signal_with "sigterm"
      assert.equal(0, command_line.finish(child).code)
    end)
  end)
end
