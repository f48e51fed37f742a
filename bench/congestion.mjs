/** The congestion control of what is measured: the same for all, so that tunnels alone differ. */
import { readFileSync, writeFileSync } from 'node:fs';

export const CONGESTION_CONTROL = 'cubic';

/** The machine's list of what its namespaces may use. */
const ALLOWED = '/proc/sys/net/ipv4/tcp_allowed_congestion_control';

/** Allows namespaces to use it, where the machine does not, until this process ends. */
export function allowCongestionControl() {
  if (allowed().includes(CONGESTION_CONTROL)) return;
  console.log(`Until the end, the machine allows namespaces to use ${CONGESTION_CONTROL} (${ALLOWED}).`);
  writeFileSync(ALLOWED, [...allowed(), CONGESTION_CONTROL].join(' '));
  process.once('exit', () =>
    writeFileSync(
      ALLOWED,
      allowed()
        .filter((name) => name !== CONGESTION_CONTROL)
        .join(' '),
    ),
  );
}

function allowed() {
  return readFileSync(ALLOWED, 'utf8').trim().split(' ');
}
