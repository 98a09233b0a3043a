--- tidemark reset, as a user types it: of a state file and of a database, and how a follower goes on.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local query = require "spec.support.query"
local sandbox = require "spec.support.sandbox"
local has_sqlite, sqlite = pcall(require, "tidemark.sqlite")

local run, expect = command_line.run, command_line.expect

for _, kind in ipairs { "state", has_sqlite and "db" or nil } do
  describe(("tidemark reset with a file of follow --%s"):format(kind), function()
    local directory, log, file

    before_each(function()
      directory = sandbox.tempdir()
      log, file = directory .. "/log", directory .. "/it's 1% file"
    end)
    after_each(sandbox.cleanup)

    -- Appends the records first..last, each `word` and its seqno, as one epoch.
    local function append(shard, word, first, last)
      local wal, records = assert(Wal.open(log, { shards = { 0, 1, 2 } })), {}
      for seqno = first, last do
        records[#records + 1] = ("%s%d"):format(word, seqno)
      end
      assert.equal(first, wal:append(shard, records))
      assert(wal:close())
    end

    local function follow()
      if kind == "db" then
        return run("follow", log, "--db", file, "--once")
      end
      return run("follow", log, "--state", file, "--once", "--print")
    end

    -- 20 records in shard 0, of an epoch each four; 3 in shard 1; none in shard 2.
    local function make()
      for first = 1, 17, 4 do
        append(0, "a", first, first + 3)
      end
      append(1, "b", 1, 3)
      expect(0, follow())
    end

    -- "0:20 1:3", without the shards that are at 0.
    local function marks()
      local text = {}
      for shard, applied in run("status", file, "--json").out:gmatch '"(%d+)":{"applied":(%d+)' do
        text[#text + 1] = applied ~= "0" and shard .. ":" .. applied or nil
      end
      return table.concat(text, " ")
    end

    -- The records of a shard in the database, such as "a1 a2".
    local function records(shard)
      local database = assert(sqlite.open(file, { readonly = true }))
      local list = query.column(database, "SELECT record FROM records WHERE shard = ? ORDER BY seqno", shard)
      database:close()
      return table.concat(list, " ")
    end

    local function names(word, last)
      local list = {}
      for seqno = 1, last do
        list[seqno] = ("%s%d"):format(word, seqno)
      end
      return table.concat(list, " ")
    end

    -- It is refused, with these words, and nothing has changed.
    local function refused(given, ...)
      local before = marks()
      local result = run("reset", file, table.unpack(given))
      expect(1, result, file, ...)
      assert.equal("", result.out)
      assert.equal(before, marks())
      if kind == "db" then
        assert.same({ names("a", 20), names("b", 3) }, { records(0), records(1) })
      end
      return result
    end

    it("lowers a shard, and the follower goes on from there", function()
      make()
      for _, seqno in ipairs { 19, 10, 9, 4, 1 } do
        local applied = marks():match "0:(%d+)"
        local result = run("reset", file, ("0:%d"):format(seqno))
        assert.equal(("shard 0: reset from %s to %d\n"):format(applied, seqno), expect(0, result))
        if kind == "state" then
          assert.equal(("shard 0: the effects of its records after %d, up to %s, are yours to take back before a follower goes on: it "
            .. "applies these records again\n"):format(seqno, applied), result.err)
        else
          assert.equal("", result.err)
          assert.same({ names("a", seqno), names("b", 3) }, { records(0), records(1) })
        end
        assert.equal(("0:%d 1:3"):format(seqno), marks())
      end
      local result = follow()
      expect(0, result, "23 of 23 applied")
      if kind == "state" then
        assert.equal(names("a", 20):gsub("a1 ", "", 1):gsub(" ", "\n") .. "\n", result.out)
      else
        assert.same({ names("a", 20), names("b", 3) }, { records(0), records(1) })
      end
    end)

    it("changes nothing at the mark", function()
      make()
      local result = run("reset", file, "0:20")
      assert.equal("shard 0: reset from 20 to 20\n", expect(0, result))
      assert.equal("", result.err)
      assert.equal("0:20 1:3", marks())
      expect(0, follow(), "23 of 23 applied, lag 0; 0 batches in this run")
    end)

    it("lowers several shards", function()
      make()
      assert.equal("shard 1: reset from 3 to 2\nshard 0: reset from 20 to 5\n", expect(0, run("reset", file, "1:2", "0:5")))
      assert.equal("0:5 1:2", marks())
      expect(0, follow(), "23 of 23 applied")
    end)

    it("makes a shard forget its log at 0, and the file follows another log when all have", function()
      make()
      local first = log
      log = directory .. "/other"
      append(0, "x", 1, 2)
      expect(3, follow(), "(FOREIGN)")
      assert.equal("shard 0: reset from 20 to 0\n", expect(0, run("reset", file, "0:0")))
      assert.equal("1:3", marks())
      expect(3, follow(), "(FOREIGN)")
      expect(0, run("reset", file, "1:0"))
      expect(0, follow(), "2 of 2 applied")
      assert.equal("0:2", marks())
      if kind == "db" then
        assert.same({ "x1 x2", "" }, { records(0), records(1) })
      end
      log = first
      expect(3, follow(), "(FOREIGN)")
    end)

    it("ends a divergence, and the records are equal in the end", function()
      append(0, "a", 1, 4)
      assert(os.execute(("cp -r '%s' '%s/copy'"):format(log, directory)))
      append(0, "a", 5, 9)
      expect(0, follow())
      assert(os.execute(("rm -r '%s' && mv '%s/copy' '%s'"):format(log, directory, log)))
      append(0, "c", 5, 7)
      expect(3, follow(), "both histories are the same up to record 4 (DIVERGED)")
      assert.equal("shard 0: reset from 9 to 4\n", expect(0, run("reset", file, "0:4")))
      local result = follow()
      expect(0, result, "7 of 7 applied, lag 0")
      if kind == "state" then
        assert.equal("c5\nc6\nc7\n", result.out)
      else
        assert.equal("a1 a2 a3 a4 c5 c6 c7", records(0))
      end
      expect(0, run("status", file, "--log", log))
    end)

    it("refuses a record whose epoch is no longer known, and names the lowest that is", function()
      local count = kind == "state" and 10 or 4
      for first = 1, 4 * count, 4 do
        append(0, "a", first, first + 3)
      end
      expect(0, follow())
      local lowest = 4 * (count - 7) + 1
      if kind == "db" then -- as if it had had 10,000 epochs
        lowest = 9
        local database = assert(sqlite.open(file))
        assert(database:exec "DELETE FROM tidemark_epochs WHERE first_seqno < 9")
        database:close()
      end
      for _, seqno in ipairs { lowest - 1, 1 } do
        local result = run("reset", file, ("0:%d"):format(seqno))
        expect(1, result, ("shard 0 cannot be reset to %d: %s: the epoch of record %d is not known: "):format(seqno, file, seqno),
          kind == "db" and ("can be reset to record %d or above, or to 0 (NOT_FOUND)\n"):format(lowest)
            or ("can be reset is %d, or else 0 (NOT_FOUND)\n"):format(lowest))
        assert.equal(("0:%d"):format(4 * count), marks())
      end
      expect(0, run("reset", file, ("0:%d"):format(lowest)))
      assert.equal(("0:%d"):format(lowest), marks())
      expect(0, run("reset", file, "0:0"))
      expect(0, follow(), ("%d of %d applied"):format(4 * count, 4 * count))
    end)

    it("refuses a record above the mark, and a shard that is not there", function()
      make()
      refused({ "0:21" }, "shard 0 cannot be reset to 21: ", "record 20 is the last one applied")
      refused({ "7:0" }, "shard 7 cannot be reset to 0: ", "the follower does not have this shard, but 0 1", "(UNKNOWN_SHARD)")
    end)

    it("checks all shards before it changes the first one", function()
      make()
      if kind == "db" then
        local database = assert(sqlite.open(file))
        assert(database:exec "DELETE FROM tidemark_epochs WHERE shard = 0 AND first_seqno < 9")
        database:close()
      else -- seven epochs are kept
        for first = 21, 33, 4 do
          append(0, "a", first, first + 3)
        end
        expect(0, follow())
      end
      for _, wrong in ipairs { "0:1", "0:50", "7:0" } do
        refused({ "1:1", wrong }, "cannot be reset to")
      end
      local result = run("reset", file, "1:1", "1:2")
      assert.same({ 2, "" }, { result.code, result.out })
      assert.truthy(result.err:find("shard 1 is given twice", 1, true))
    end)

    it("refuses a file that is not there, and makes none", function()
      expect(1, run("reset", file, "0:1"), file, "(NOT_FOUND): give a state file or a database of follow --db")
      assert.equal("", command_line.list(directory))
    end)

    it("refuses a file that is neither, and leaves it as it is", function()
      command_line.write(file, ("some text\n"):rep(100))
      expect(1, run("reset", file, "0:1"), file, "(CORRUPT)")
      assert.equal(("some text\n"):rep(100), command_line.read(file))
      assert(os.remove(file))
      if kind == "db" then -- a database of somebody else
        local database = assert(sqlite.open(file))
        assert(database:exec "CREATE TABLE mine (x)")
        database:close()
        expect(1, run("reset", file, "0:0"), file .. ": no follower keeps its progress there, or it has applied nothing yet\n")
        database = assert(sqlite.open(file))
        assert.same({ "mine" }, query.column(database, "SELECT name FROM sqlite_schema"))
        database:close()
      else -- a state with somebody else's note
        local state = assert(ReplicationState.open(file, { 0 }))
        assert(state:advance(0, 5))
        assert(state:checkpoint { [0] = "mine" })
        state:close()
        for _, seqno in ipairs { 0, 3 } do
          expect(1, run("reset", file, ("0:%d"):format(seqno)), ("shard 0 cannot be reset to %d: %s: its note is not a follower's "
            .. "(CORRUPT)"):format(seqno, file))
        end
        assert.equal("0:5", marks())
      end
      expect(1, run("reset", directory, "0:0"), directory)
    end)

    if kind == "state" then
      it("refuses the heads of a log, but takes the file of a follower", function()
        make()
        for _, seqno in ipairs { 20, 10, 0 } do
          expect(1, run("reset", log .. "/heads", ("0:%d"):format(seqno)), log .. "/heads: has the heads of a log: give the file of a "
            .. "follower\n")
        end
        assert.equal(20, command_line.head(log, 0))
        expect(0, run("reset", file, "0:10"))
      end)

      it("refuses a state file beside a follower, and takes it once that has ended", function()
        make()
        local child = command_line.start("follow", log, "--state", file, "--print")
        append(0, "a", 21, 21)
        assert.equal("a21", child:read_line(command_line.PATIENCE))
        local before = marks()
        local result = run("reset", file, "1:1", "0:20")
        expect(1, result, "shard 1 cannot be reset to 1: " .. file, "(LOCKED): end the follower first\n")
        assert.equal("", result.out)
        assert.equal(before, marks())
        child:signal_with "sigterm"
        expect(0, command_line.finish(child))
        local state = assert(ReplicationState.open(file, {})) -- which no follower has
        result = run("reset", file, "1:1", "0:20")
        expect(1, result, "(BUSY): end the follower first\n")
        assert.equal("", result.out)
        state:close()
        assert.equal("0:21 1:3", marks())
        expect(0, run("reset", file, "1:1", "0:20"))
        expect(0, follow(), "24 of 24 applied")
      end)
    else
      it("stops the shards of a follower of the database, which says so, and nothing is lost", function()
        make()
        local child = command_line.start("follow", log, "--db", file)
        append(0, "a", 21, 21)
        command_line.wait_until("it follows", function()
          return marks() == "0:21 1:3"
        end)
        expect(0, run("reset", file, "0:10", "1:1"))
        append(0, "a", 22, 22)
        append(1, "b", 4, 4)
        child:wait_until(function()
          return select(2, child.errors:gsub("%(REPLACED%); the shard has stopped", "")) == 2
        end, "did not stop", command_line.PATIENCE)
        child:signal_with "sigterm"
        expect(3, command_line.finish(child), "shard 0 has stopped, failed: ", "it has been reset", "shard 1 has stopped, failed: ")
        expect(0, follow(), "26 of 26 applied")
        assert.same({ names("a", 22), names("b", 4) }, { records(0), records(1) })
      end)

      it("refuses a database whose records are in other tables", function()
        make()
        local database = assert(sqlite.open(file))
        assert(database:exec "ALTER TABLE records RENAME TO mine")
        database:close()
        expect(1, run("reset", file, "1:1", "0:1"), "shard 1 cannot be reset to 1: " .. file, "no such table: records")
        assert.equal("0:20 1:3", marks())
      end)
    end
  end)
end
