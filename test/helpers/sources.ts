/** @file What the source files import and which globals they use, read from their syntax; and the rules they keep. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, normalize, resolve } from "node:path"
import ts from "typescript"

const root = resolve(import.meta.dirname, "../..")

export interface Import {
  /** As written; undefined where it is computed when the program runs. */
  readonly from: string | undefined
  /** Names taken from it; none of `import()`. */
  readonly names: readonly string[]
}

export interface Source {
  /** From the root of the repository. */
  readonly path: string
  readonly lines: number
  readonly imports: readonly Import[]
  /** Names used as values that nothing in the file declares, of those asked about below. */
  readonly globals: ReadonlySet<string>
}

const GLOBALS = new Set(["process", "Buffer", "require", "eval", "Function", "setImmediate"])

export function parse(path: string, text: string): Source {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true)
  const imports: Import[] = []
  const globals = new Set<string>()
  const literal = (node: ts.Node | undefined) => (node && ts.isStringLiteralLike(node) ? node.text : undefined)
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      const bindings = node.importClause?.namedBindings
      const names =
        bindings && ts.isNamedImports(bindings) ? bindings.elements.map((e) => (e.propertyName ?? e.name).text) : ["*"]
      imports.push({ from: literal(node.moduleSpecifier), names })
      return
    }
    if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      imports.push({ from: literal(node.moduleSpecifier), names: ["*"] })
      return
    }
    if (
      ts.isCallExpression(node) &&
      (node.expression.kind === ts.SyntaxKind.ImportKeyword || requires(node.expression))
    ) {
      imports.push({ from: literal(node.arguments[0]), names: [] })
    }
    if (ts.isIdentifier(node) && GLOBALS.has(node.text) && !named(node)) globals.add(node.text)
    ts.forEachChild(node, visit)
  }
  visit(file)
  return { path, lines: text.split("\n").length - 1, imports, globals }
}

/** `createRequire(...)`, which is called with what it is to load. */
const requires = (callee: ts.Expression): boolean =>
  ts.isCallExpression(callee) && ts.isIdentifier(callee.expression) && callee.expression.text === "createRequire"

/** Is this the name of a property, a declaration or a type, rather than a use of the global? */
function named(node: ts.Identifier): boolean {
  const { parent } = node
  const asProperty =
    (ts.isPropertyAccessExpression(parent) || ts.isQualifiedName(parent)) && "name" in parent && parent.name === node
  const declared = "name" in parent && parent.name === node
  return asProperty || declared || ts.isTypeReferenceNode(parent)
}

/** All TypeScript files below these folders of the repository. */
export function sources(folders: readonly string[]): Source[] {
  return folders.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .sort()
      .map((name) => {
        const path = join(folder, name)
        return parse(path, readFileSync(join(root, path), "utf8"))
      }),
  )
}

/** The file of the repository that a relative import means. */
export const target = (source: Source, from: string): string => normalize(join(dirname(source.path), from))

/** A package's name without the path inside it. */
export const packageOf = (from: string): string =>
  from
    .split("/")
    .slice(0, from.startsWith("@") ? 2 : 1)
    .join("/")
