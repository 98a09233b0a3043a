--- The models of the hand-shakes of waiting and watching, checked by Spin in all states: the right ones hold, each mutant does not.

local sandbox = require "spec.support.sandbox"

-- it takes seconds and does not depend on the Lua version or a sanitizer
local can_run = os.execute "command -v spin >/dev/null" and _VERSION == "Lua 5.4" and not os.getenv "LD_PRELOAD"
local here = io.popen("pwd"):read "l"

-- Spin's verdict on all states of a model with these definitions.
local function check(source, definitions)
  local pipe = io.popen(("cd '%s' && spin %s -a '%s' && cc -O0 -w -DSAFETY pan.c -o pan && ./pan 2>&1"):format(
    sandbox.tempdir(), definitions, source))
  local output = pipe:read "a"
  pipe:close()
  assert.truthy(output:find("Full statespace search", 1, true), output)
  assert.falsy(output:find("max search depth too small", 1, true), output)
  return tonumber(output:match "errors: (%d+)"), output
end

for _, model in ipairs {
  { name = "wait", right = { "", "-DKILL", "-DREADONLY", "-DREADONLY -DKILL" }, mutants = 11 },
  { name = "watch", right = { "" }, mutants = 9 },
} do
  describe("the model " .. model.name, function()
    local source = ("%s/spec/models/%s.pml"):format(here, model.name)

    teardown(sandbox.cleanup)

    for _, right in ipairs(model.right) do
      it("holds " .. right, function()
        if not can_run then
          pending "Spin is not installed, or it was checked in another run"
          return
        end
        local errors, output = check(source, right)
        assert.equal(0, errors, output)
      end)
    end

    local file = assert(io.open(source))
    local comment = file:read("a"):match "/%*(.-)%*/"
    file:close()
    local mutants = 0
    for mutant in comment:gmatch "\n %*     ([%u_]+) " do
      mutants = mutants + 1
      it("does not hold with " .. mutant, function()
        if not can_run then
          pending "Spin is not installed, or it was checked in another run"
          return
        end
        local errors, output = check(source, "-D" .. mutant)
        assert.equal(1, errors, output)
        -- somebody sleeps or polls for ever; or was told too early
        assert.truthy(output:find("invalid end state", 1, true) or output:find("assertion violated", 1, true), output)
      end)
    end

    it("has mutants", function()
      assert.equal(model.mutants, mutants)
    end)
  end)
end
