/**
 * What `cargo test -- --show-output` has printed, counted.
 *
 * A test that finds at run time that it cannot run prints `skipped: ` and why; it is skipped, whatever Rust
 * calls it. One that is `#[ignore]`d is skipped for its reason, but for the long ones: they are left to
 * `npm run test:long`.
 *
 * @param {string} output
 * @returns {{ passed: number, failed: string[], skipped: { name: string, reason: string }[] }}
 */
export function readCargoTests(output) {
  const outcome = { passed: 0, failed: [], skipped: [] };
  // Two binaries may have tests of the same name.
  for (const binary of output.split(/^running \d+ tests?$/m)) {
    const notes = skipNotes(binary);
    for (const [, name, verdict, why] of binary.matchAll(
      /^test (.+) \.\.\. (ok|FAILED|ignored)(?:, (.+))?$/gm,
    )) {
      if (verdict === 'FAILED') outcome.failed.push(name);
      else if (verdict === 'ignored') skip(outcome, name, why);
      else if (notes.has(name)) outcome.skipped.push({ name, reason: notes.get(name) });
      else outcome.passed++;
    }
  }
  return outcome;
}

function skip(outcome, name, reason = 'long') {
  if (!/\blong\b/.test(reason)) outcome.skipped.push({ name, reason });
}

function skipNotes(output) {
  const shown = output.matchAll(/^---- (.+) stdout ----\n([^]*?)(?=^---- |^(?:successes|failures):)/gm);
  const notes = Array.from(shown, ([, name, text]) => [name, /^skipped: (.+)$/m.exec(text)?.[1]]);
  return new Map(notes.filter(([, why]) => why));
}
