/**
 * The paths that a Rust file names (`crate::codec::frame`, `std::fs`), by its tokens: enough of the
 * language for that, and no more. Test code is left out.
 */

/**
 * @typedef {object} RustPath
 * @property {string[]} segments whole, with `use` trees spelt out; as written, so `super` may stand first
 * @property {string[]} scope the modules inside the file that it stands in
 * @property {number} line
 */

/**
 * @param {string} source
 * @returns {{ paths: RustPath[], testModules: string[] }} `testModules` are the `mod name;` under
 *   `#[cfg(test)]`, whose files are test code as well
 */
export function readRust(source) {
  return new Reader(tokenize(source)).read();
}

class Reader {
  #tokens;
  #index = 0;
  #paths = [];
  #testModules = [];
  /** The braces that are open: a module's name, or `null` for any other. */
  #braces = [];

  constructor(tokens) {
    this.#tokens = tokens;
  }

  read() {
    while (this.#index < this.#tokens.length) this.#readOne();
    return { paths: this.#paths, testModules: this.#testModules };
  }

  #readOne() {
    const { text } = this.#peek();
    if (text === '#' && this.#isAttribute()) this.#readAttribute();
    else if (text === 'use' && this.#peek(1)?.text !== '<') this.#readUse();
    else if (text === 'mod' && this.#peek(2)?.text === '{') this.#openModule();
    else if (text === '{') this.#open(null);
    else if (text === '}') this.#close();
    else if (isName(text)) this.#readPath();
    else this.#index++;
  }

  #peek(ahead = 0) {
    return this.#tokens[this.#index + ahead];
  }

  #take() {
    return this.#tokens[this.#index++];
  }

  #openModule() {
    const name = this.#peek(1).text;
    this.#index += 2;
    this.#open(name);
  }

  #open(module) {
    this.#braces.push(module);
    this.#index++;
  }

  #close() {
    this.#braces.pop();
    this.#index++;
  }

  #isAttribute() {
    const next = this.#peek(1)?.text;
    return next === '[' || (next === '!' && this.#peek(2)?.text === '[');
  }

  #readAttribute() {
    const whole = this.#peek(1).text === '!';
    this.#index += whole ? 2 : 1;
    const from = this.#index;
    this.#skipBrackets();
    const attribute = this.#tokens.slice(from + 1, this.#index - 1).map(({ text }) => text);
    if (!isForTests(attribute)) return;
    if (whole) this.#index = this.#tokens.length;
    else this.#skipItem();
  }

  /** Skips the item that an attribute belongs to. */
  #skipItem() {
    while (this.#peek()?.text === '#' && this.#isAttribute()) {
      this.#index++;
      this.#skipBrackets();
    }
    // What ends these is their semicolon, whatever braces come before it.
    let endsWithBrace = true;
    while (this.#index < this.#tokens.length) {
      const { text } = this.#peek();
      if (['use', 'const', 'static', 'type', 'let'].includes(text)) endsWithBrace = false;
      if (text === 'fn') endsWithBrace = true; // as in `const fn`
      if (text === 'mod' && this.#peek(2)?.text === ';') this.#testModules.push(this.#peek(1).text);
      if (text === ';') {
        this.#index++;
        return;
      }
      if (['(', '[', '{'].includes(text)) {
        this.#skipBrackets();
        if (text === '{' && endsWithBrace) return;
      } else {
        this.#index++;
      }
    }
  }

  /** Skips from an opening bracket of any kind to behind the one that closes it. */
  #skipBrackets() {
    let depth = 0;
    do {
      const { text } = this.#take();
      if (['(', '[', '{'].includes(text)) depth++;
      if ([')', ']', '}'].includes(text)) depth--;
    } while (depth > 0 && this.#index < this.#tokens.length);
  }

  #readUse() {
    this.#index++;
    this.#readUseTree([]);
    if (this.#peek()?.text === ';') this.#index++;
  }

  #readUseTree(prefix) {
    let segments = prefix;
    while (this.#index < this.#tokens.length) {
      const { text, line } = this.#peek();
      if (text === '{') {
        this.#index++;
        while (this.#peek() && this.#peek().text !== '}') {
          this.#readUseTree(segments);
          if (this.#peek()?.text === ',') this.#index++;
        }
        this.#index++;
        return;
      }
      if (isName(text) || text === '*') segments = [...segments, text];
      else if (text !== '::') return;
      this.#index++;
      if (text === '::') continue;
      if (this.#peek()?.text === 'as') this.#index += 2;
      if (this.#peek()?.text !== '::') {
        this.#add(segments, line);
        return;
      }
    }
  }

  #readPath() {
    const { text, line } = this.#take();
    const segments = [text];
    while (this.#peek()?.text === '::' && isName(this.#peek(1)?.text ?? '')) {
      this.#index++;
      segments.push(this.#take().text);
    }
    if (segments.length > 1) this.#add(segments, line);
  }

  #add(segments, line) {
    const scope = this.#braces.filter((module) => module !== null);
    this.#paths.push({ segments, scope, line });
  }
}

/** `test`, `tokio::test`, `cfg(test)` and `cfg(all(test, …))`; not `cfg(not(test))` nor `cfg(any(test, …))`. */
function isForTests(attribute) {
  if (attribute.join('') === 'test' || attribute.slice(-2).join('') === '::test') return true;
  const [kind, ...condition] = attribute;
  return (
    kind === 'cfg' &&
    condition.includes('test') &&
    !condition.some((word) => word === 'not' || word === 'any')
  );
}

function isName(text) {
  return /^[\p{L}_]/u.test(text);
}

const TOKEN = new RegExp(
  [
    String.raw`(?<space>\s+|//[^\n]*)`,
    String.raw`(?<comment>/\*)`,
    String.raw`(?<raw>[bc]?r(?<hashes>#*)")`,
    String.raw`(?<text>[bc]?"(?:[^"\\]|\\[^])*")`,
    String.raw`(?<char>b?'(?:[^'\\\n]|\\(?:[^u]|u\{[^}]*\}|x..))')`,
    String.raw`(?<lifetime>'[\p{L}_][\p{L}\p{N}_]*)`,
    String.raw`(?:r#)?(?<name>[\p{L}_][\p{L}\p{N}_]*)`,
    String.raw`(?<sign>::|[^])`,
  ].join('|'),
  'uy',
);

function tokenize(source) {
  const tokens = [];
  let line = 1;
  for (let at = 0; at < source.length;) {
    TOKEN.lastIndex = at;
    const { groups } = TOKEN.exec(source);
    let end = TOKEN.lastIndex;
    if (groups.comment) end = endOfComment(source, at);
    if (groups.raw) end = endOf(source, `"${groups.hashes}`, end);
    const text = groups.name ?? groups.sign;
    if (text !== undefined && !/^\d/.test(text)) tokens.push({ text, line });
    line += source.slice(at, end).split('\n').length - 1;
    at = end;
  }
  return tokens;
}

/** Block comments nest. */
function endOfComment(source, start) {
  let depth = 0;
  const sign = /\/\*|\*\//g;
  sign.lastIndex = start;
  for (let match = sign.exec(source); match; match = sign.exec(source)) {
    depth += match[0] === '/*' ? 1 : -1;
    if (depth === 0) return sign.lastIndex;
  }
  return source.length;
}

function endOf(source, sign, from) {
  const at = source.indexOf(sign, from);
  return at === -1 ? source.length : at + sign.length;
}
