import assert from 'node:assert/strict';

/**
 * Asserts that a call fails with that code and a message that helps: it says more than the code
 * does, and holds all the words a user would look for.
 *
 * @param {Promise<unknown>} call
 * @param {string | RegExp} code
 * @param {...(string | RegExp)} words
 */
export async function assertFails(call, code, ...words) {
  const error = await call.then(
    (value) => assert.fail(`expected ${code}, but it resolved with ${JSON.stringify(value)}`),
    (reason) => reason,
  );
  if (code instanceof RegExp) assert.match(error.code, code, error.stack);
  else assert.equal(error.code, code, error.stack);
  assert.equal(error.name, 'VpnError');
  assert.ok(error.message.length > 20 && error.message !== code, `"${error.message}" does not help`);
  for (const word of words) {
    if (word instanceof RegExp) assert.match(error.message, word);
    else assert.ok(error.message.includes(word), `"${error.message}" does not name ${word}`);
  }
  return error;
}
