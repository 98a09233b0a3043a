--- Runs every C program of spec/c/, one test each. `make programs` builds them.

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua = _VERSION:lower():gsub(" ", "") -- those that use Lua are built for each version

describe("the C program", function()
  local sources = io.popen "ls spec/c/*.c"
  for source in sources:lines() do
    local name = source:match "([^/]+)%.c$"
    it(name, function()
      -- under AddressSanitizer these are linked with it, and leaks count
      local path = ("%s/%sspec/%s"):format(build, name:find "^lua_" and lua .. "/" or "", name)
      local pipe = io.popen(("LD_PRELOAD= ASAN_OPTIONS=detect_leaks=1 '%s' 2>&1"):format(path))
      local output = pipe:read "a"
      local ok, how, code = pipe:close()
      assert(ok, ("%s: %s %s\n%s"):format(source, how, code, output))
      assert.truthy(output:find "ok %- ")
      assert.falsy(output:find "not ok")
    end)
  end
  sources:close()
end)
