'use strict';

/** How much more or less than its length each wait may take, so that programs don't come back in step. */
const JITTER = 0.2;

/**
 * How long to wait before an attempt to connect again, in milliseconds.
 *
 * @param {number} attempt 0 is the first after a drop
 * @param {{ reconnectBaseDelayMs: number, reconnectMaxDelayMs: number }} limits
 * @param {number} random from 0 to 1
 */
function reconnectDelay(attempt, { reconnectBaseDelayMs, reconnectMaxDelayMs }, random) {
  const delay = Math.min(reconnectBaseDelayMs * 2 ** attempt, reconnectMaxDelayMs);
  return delay * (1 - JITTER + 2 * JITTER * random);
}

module.exports = { reconnectDelay };
