//! Commands that one command of Redis cannot do at once: as scripts, which run whole or not at all.

use std::sync::LazyLock;

use crate::clients::redis::Script;

/// A script with the name that Redis knows it by.
pub(super) struct Lua {
    pub(super) text: String,
    pub(super) hash: String,
}

impl Lua {
    fn new(text: String) -> Lua {
        Lua { hash: Script::new(&text).get_hash().to_owned(), text }
    }
}

/// `newer(a, b, kind, same)`: is version `a` greater than `b` (or, with `same`, equal)? Numbers by what they are, if both
/// are (`kind` n), else text by its letters.
const NEWER: &str = "
local function newer(a, b, kind, same)
  local x, y = tonumber(a), tonumber(b)
  if kind == 'n' and x and y then a, b = x, y else a, b = tostring(a), tostring(b) end
  return a > b or (same and a == b)
end
";

/// Runs a command on the key unless what is there is newer. Arguments: `string` or `hash`, the field with the version,
/// the version, its kind (`n` or `s`), 1 where an equal version will do, and the command with what follows the key.
pub(super) static UNLESS_NEWER: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(format!(
        "{NEWER}
local old
if ARGV[1] == 'hash' then
  old = redis.call('HGET', KEYS[1], ARGV[2])
else
  local text = redis.call('GET', KEYS[1])
  local ok, value = pcall(cjson.decode, text or '')
  if ok and type(value) == 'table' then old = value[ARGV[2]] end
end
if (type(old) == 'number' or type(old) == 'string') and not newer(ARGV[3], old, ARGV[4], ARGV[5] == '1') then
  return 0
end
redis.call(ARGV[6], KEYS[1], unpack(ARGV, 7))
return 1"
    ))
});

/// Writes a hash. Arguments: milliseconds to live or 0; the field with the version or nothing, the version, its kind; the
/// number of fields to remove and their names; names and values of fields to set.
pub(super) static HASH: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(format!(
        "{NEWER}
if ARGV[2] ~= '' then
  local old = redis.call('HGET', KEYS[1], ARGV[2])
  if old and not newer(ARGV[3], old, ARGV[4], false) then return 0 end
end
local gone = 5 + tonumber(ARGV[5])
if gone > 5 then redis.call('HDEL', KEYS[1], unpack(ARGV, 6, gone)) end
if #ARGV > gone then redis.call('HSET', KEYS[1], unpack(ARGV, gone + 1)) end
if ARGV[1] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 1"
    ))
});

/// Runs a command on the key and sets its time to live. Arguments: milliseconds, and the command with what follows the
/// key.
pub(super) static WITH_TTL: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        "redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1"
            .to_owned(),
    )
});
