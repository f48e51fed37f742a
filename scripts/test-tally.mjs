/**
 * A reporter of `node --test` that counts, for test.mjs: one line of JSON for each test that ran.
 *
 * Suites only hold tests together and are not counted, unless one is skipped as a whole.
 */

import { relative } from 'node:path';

export default async function* tally(events) {
  for await (const { type, data } of events) {
    const verdict = verdictOn(type, data);
    if (!verdict) continue;
    const { name, file = '', skip, todo } = data;
    const reason = [skip, todo].find((why) => typeof why === 'string' && why !== '') ?? 'No reason is given.';
    yield `${JSON.stringify({ verdict, name, file: relative(process.cwd(), file), reason })}\n`;
  }
}

function verdictOn(type, { skip, todo, details }) {
  if (type !== 'test:pass' && type !== 'test:fail') return undefined;
  if (skip !== undefined || todo !== undefined) return 'skipped';
  const isSuite = details?.type === 'suite';
  if (type === 'test:pass') return isSuite ? undefined : 'passed';
  // A suite fails by itself only in its hooks.
  return isSuite && details.error?.failureType === 'subtestsFailed' ? undefined : 'failed';
}
