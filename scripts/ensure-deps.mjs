#!/usr/bin/env node
/** Installs the development tools of package-lock.json where they are missing or out of date. */

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { ROOT, heading, run } from './run.mjs';

export async function ensureDependencies() {
  // npm writes this file last of all, so it is missing after an interrupted installation.
  const installed = modifiedAt('node_modules/.package-lock.json');
  if (installed >= modifiedAt('package-lock.json')) return;
  heading('Installing the development tools (npm ci)');
  await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']);
}

function modifiedAt(file) {
  return statSync(join(ROOT, file), { throwIfNoEntry: false })?.mtimeMs ?? -Infinity;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await ensureDependencies();
