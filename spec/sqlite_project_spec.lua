--- The module tidemark.sqlite around its code: what it exports, that it stays loaded, its documentation, its rock, make without SQLite.

local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local sqlite = require "tidemark.sqlite"

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"
local lua_version = lua:match "%d%.%d"
local exists, run, write = shell.exists, shell.run, shell.write

describe("the module tidemark.sqlite", function()
  teardown(sandbox.cleanup)

  local function exported(file)
    local ok, output = run(("nm -D --defined-only '%s'"):format(file))
    assert(ok, output)
    return output:gsub("%x+ (%a) ", "%1 ")
  end

  it("exports luaopen_ only", function()
    if build:find "asan" then
      pending "a sanitizer adds names"
      return
    end
    assert.equal("T luaopen_tidemark_sqlite\n", (exported(("%s/lua%s/tidemark/sqlite.so"):format(build, lua_version))))
  end)

  it("stays loaded when the lua_State that loaded it is closed", function()
    local ok, output = sandbox.lua [[
      require("luv").new_thread(function() require "tidemark.sqlite" end):join()
      for line in io.lines "/proc/self/maps" do
        if line:find("tidemark/sqlite.so", 1, true) then print "loaded" break end
      end
    ]]
    assert.same({ true, "loaded\n" }, { ok, output })
  end)

  it("stands in the reference and the types", function()
    local reference = markdown.read "docs/reference.md":match "\n## Lua: `tidemark.sqlite`\n(.-)\n## "
    local types = markdown.read "docs/meta/sqlite.lua"
    local db = assert(sqlite.open(sandbox.tempdir() .. "/x.db"))
    local count = 0
    for prefix, functions in pairs { ["sqlite%."] = sqlite, ["db:"] = getmetatable(db).__index } do
      for name in pairs(functions) do
        count = count + 1
        assert(reference:find("| `" .. prefix .. name .. "%("), "docs/reference.md lacks " .. name)
        assert(types:find("function %a+[.:]" .. name .. "%("), "docs/meta lacks " .. name)
      end
    end
    assert.equal(10, count)
    db:close()
    for word in markdown.read("csrc/sqlite/connection.c"):match("words%[%] = (%b{})"):gmatch '"([%u_]+)"' do
      assert(reference:find("| `" .. word .. "` |", 1, true), "docs/reference.md lacks " .. word)
      assert(types:find('"' .. word .. '"', 1, true), "docs/meta lacks " .. word)
    end
  end)

  describe("as a rock", function()
    if os.getenv "LD_PRELOAD" then
      pending "not with a sanitizer preloaded into compilers"
      return
    end

    local function luarocks(directory, environment, arguments)
      local command = ("cd '%s/copy' && %s luarocks --lua-version %s make %s --deps-mode=none --tree '%s/tree'"):format(
        directory, environment, lua_version, arguments, directory)
      local ok, output = run(command)
      assert(ok, output)
      return ("%s/tree/lib/lua/%s/tidemark/"):format(directory, lua_version)
    end

    -- in a copy: luarocks leaves its objects beside the sources
    local function copy()
      local directory = sandbox.tempdir()
      local ok, output = run(("mkdir '%s/copy' && cp -r *.rockspec rocks bin csrc lua '%s/copy'"):format(directory, directory))
      assert(ok, output)
      return directory
    end

    local has_luarocks = run "command -v luarocks"

    it("is built off line and works", function()
      if not has_luarocks then
        pending "luarocks is not installed"
        return
      end
      local directory = copy()
      local lib = luarocks(directory, "", "rocks/tidemark-sqlite-scm-1.rockspec")
      assert.equal("T luaopen_tidemark_sqlite\n", (exported(lib .. "sqlite.so")))
      write(directory .. "/script.lua", [[
        local db = assert(require("tidemark.sqlite").open(... .. "/test.db"))
        for i in assert(db:rows("SELECT ?", math.maxinteger)) do print(i) end
      ]])
      local cpath = ("LUA_CPATH_%s='%s/tree/lib/lua/%s/?.so'"):format(lua_version:gsub("%.", "_"), directory, lua_version)
      local ok, output = run(("%s %s '%s/script.lua' '%s'"):format(cpath, lua, directory, directory))
      assert.same({ true, math.maxinteger .. "\n" }, { ok, output })
    end)

    it("lists every source", function()
      local rockspec = {}
      assert(loadfile("rocks/tidemark-sqlite-scm-1.rockspec", "t", rockspec))()
      local _, sources = run "ls csrc/sqlite/*.c"
      assert.equal(sources, table.concat(rockspec.build.modules["tidemark.sqlite"].sources, "\n") .. "\n")
    end)

    it("is not needed by the one at the top, which builds where there is no SQLite", function()
      if not has_luarocks then
        pending "luarocks is not installed"
        return
      end
      local directory = copy()
      write(directory .. "/sqlite3.h", "#error this machine has no SQLite\n")
      local lib = luarocks(directory, ("CPATH='%s'"):format(directory), "")
      assert.is_false(exists(lib .. "sqlite.so"))
      local _, libraries = run(("readelf -d '%score.so'"):format(lib))
      assert.truthy(libraries:find("NEEDED", 1, true))
      assert.is_nil(libraries:find("sqlite", 1, true))
    end)
  end)

  it("is left out by make where there is no SQLite", function()
    local dry = "make -n -B all PKG_CONFIG_PATH=/nowhere"
    local ok, output = run(dry)
    assert(ok and output:find("tidemark/sqlite.so", 1, true), output)
    ok, output = run("PKG_CONFIG_LIBDIR=/nowhere " .. dry)
    assert(ok, output)
    assert.truthy(output:find("tidemark/core.so", 1, true))
    assert.is_nil(output:find("sqlite.so", 1, true))
  end)
end)
