-- The same decision as `Ledger::lease`, on the clock of the server. Times are in microseconds.
-- KEYS: the quota, its processes (one hash slot).
-- ARGV: process, interval, burst, need, want, unit, max_wait, horizon, rate, seen, not_after (0: none)
local function int(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[2]), tonumber(ARGV[3])
local unit, max_wait, horizon = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local all = 1000000 / interval
local kept = redis.call('HMGET', KEYS[1], 'tat', 'level', 'leveled', 'tolerance')
local tat, level, leveled = tonumber(kept[1] or 0), tonumber(kept[2] or all), tonumber(kept[3] or 0)
local tolerance = tonumber(kept[4] or 0)

local function reply(kind, turns, ahead)
    return {kind, turns, ahead, string.format('%.17g', level), redis.call('HLEN', KEYS[2]), now, tat}
end

-- It lay in the socket of a server that hung: nobody waits for the answer any more.
local not_after = tonumber(ARGV[11])
if not_after > 0 and now > not_after then return reply(-1, 0, 0) end

-- How far ahead of the clock `tat` can be. Another version of the service may lease further ahead.
local own = max_wait + math.max(2 * horizon, math.floor(burst * interval)) + 1000
if own > tolerance then
    tolerance = own
    redis.call('HSET', KEYS[1], 'tolerance', int(tolerance))
end

redis.call('HSET', KEYS[2], ARGV[1], int(now) .. ' ' .. ARGV[9])
if leveled == 0 or now < leveled or now > leveled + 250000 then
    local fields, rates = redis.call('HGETALL', KEYS[2]), {}
    for i = 1, #fields, 2 do
        local at, rate = string.match(fields[i + 1], '^(%d+) (%S+)$')
        at = tonumber(at or 0)
        if at > now or now - at > 3000000 then
            redis.call('HDEL', KEYS[2], fields[i])
        else
            rates[#rates + 1] = tonumber(rate)
        end
    end
    table.sort(rates)
    local left = all
    level = all
    for i, rate in ipairs(rates) do
        local fair = left / (#rates - i + 1)
        if rate > fair then
            level = fair
            break
        end
        left = left - rate
    end
    redis.call('HSET', KEYS[1], 'level', string.format('%.17g', level), 'leveled', int(now))
    redis.call('PEXPIRE', KEYS[1], int(math.ceil(tolerance / 1000) + 60000))
    redis.call('PEXPIRE', KEYS[2], 60000)
end

-- A later time was written by a clock that was stepped back since.
local last = now + tolerance
if tat > last then
    tat = now + 2 * horizon
    redis.call('HSET', KEYS[1], 'tat', int(tat))
end
-- The data were lost, but this process remembers.
local seen = tonumber(ARGV[10])
if seen > tat and seen <= last then tat = seen end
-- The turn that is due now is one of the burst.
tat = math.max(tat, now - math.floor(math.max(burst - 1, 0) * interval))
local ahead = tat - now
if ahead > 0 and ahead > max_wait then return reply(0, 0, ahead) end

local asked = tonumber(ahead > 0 and ARGV[4] or ARGV[5])
local most = math.floor(2 * (horizon / 1000000) * level)
local turns = unit * math.max(1, math.min(math.ceil(asked / unit), math.floor(most / unit)))
tat = math.ceil(tat + turns * interval)
redis.call('HSET', KEYS[1], 'tat', int(tat))
return reply(1, turns, ahead)
