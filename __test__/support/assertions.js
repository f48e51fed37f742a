'use strict';

const assert = require('node:assert/strict');

const { VpnError } = require('../../index.js');

/** Asserts that `promise` rejects with a `VpnError` of this code. */
function rejectsWith(promise, code, message) {
  return assert.rejects(promise, (error) => {
    assert.ok(error instanceof VpnError, `${error}`);
    assert.equal(error.code, code);
    if (message) assert.match(error.message, message);
    return true;
  });
}

/** What `emitter` emits from now on, as [name, data]. */
function record(emitter, ...names) {
  const events = [];
  for (const name of names) emitter.on(name, (data) => events.push([name, data]));
  return events;
}

module.exports = { record, rejectsWith };
