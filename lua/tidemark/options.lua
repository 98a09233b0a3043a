--- Checks the options table of a constructor. A wrong or unknown option is the caller's mistake, so it raises.

local options = {}

function options.is_object(value)
  return type(value) == "table" or type(value) == "userdata"
end

function options.is_function(value)
  return type(value) == "function"
end

function options.is_seconds(value)
  return type(value) == "number" and value >= 0 and value < math.huge
end

function options.is_count(value)
  return math.type(value) == "integer" and value >= 1
end

function options.is_shards(value)
  if type(value) ~= "table" or #value == 0 then
    return false
  end
  for _, id in ipairs(value) do
    if math.type(id) ~= "integer" or id < 0 or id > 65535 then
      return false
    end
  end
  return true
end

---@class tidemark.OptionRule
---@field [1] fun(value: any): boolean
---@field [2] string what it must be
---@field optional? boolean

--- Raises unless `given`, argument 1 of the function `name`, is a table of these options. To be called by that function itself, or by a
--- function that is `deeper` calls below it.
---@param name string
---@param rules table<string, tidemark.OptionRule>
---@param given any
---@param deeper integer? default 0
function options.check(name, rules, given, deeper)
  local function refuse(message, ...)
    error(("bad argument #1 to '%s' (%s)"):format(name, message:format(...)), 4 + (deeper or 0))
  end
  if type(given) ~= "table" then
    refuse("table expected, got %s", type(given))
  end
  for option in pairs(given) do
    if not rules[option] then
      refuse("no such option: '%s'", tostring(option))
    end
  end
  for option, rule in pairs(rules) do
    local value = given[option]
    if not (value == nil and rule.optional) and not rule[1](value) then
      refuse("option '%s' must be %s", option, rule[2])
    end
  end
end

return options
