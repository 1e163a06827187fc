/** @file The command line in real processes: help, usage, and every kind of error with its exit code. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { cli, demoModel, reference, root, seven, twoAtATime } from "./helpers/cli.ts"
import { FAULTS } from "./helpers/faults.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-cli-"))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (name: string): string => join(scratch, name)

const COMMANDS = [
  "info",
  "run",
  "activations",
  "convert",
  "train",
  "evaluate",
  "patch",
  "ablate",
  "view",
  "lens",
  "attribute",
  "worker",
  "card",
  "saliency",
  "heads",
  "demo",
  "cache",
  "doctor",
]

describe("help", () => {
  it("is data", async () => {
    const { code, stdout, stderr } = await cli(["--help"])
    expect([code, stderr]).toEqual([0, ""])
    expect(stdout).toMatchInlineSnapshot(`
      "Usage: vit-prisma [options] [command]

      Vision transformers as hookable graphs: read, replace, edit and export every
      activation.

      Options:
        -V, --version                              output the version number
        -h, --help                                 display help for command

      Commands:
        info [options] <model>                     what a model, a .safetensors file or an .onnx file holds
        run [options] <model> <images...>          predictions for images
        activations [options] <model> [images...]  write hooks and outputs of a run to a safetensors file; with --data of a dataset to many
        convert [options] [model]                  write a folder for transformers.js, onnxruntime and this package; with --from one for each model of a list
        train [options] <config>                   train a small ViT: checkpoints, logs, curves and a model in one folder
        evaluate [options] <model>                 accuracy and loss of a classifier on a dataset
        patch [options] <model> <clean> <corrupt>  activation patching: one run's values put into another, site by site
        ablate [options] <model> <images...>       take values away, site by site, and see what becomes of a metric
        view [options] <model> [images...]         where each attention head looks: an interactive page, a picture, or the numbers behind them
        lens [options] <model> <images...>         what the model's head makes of the residual stream at each layer: of the image, and of each patch
        attribute [options] <model> <images...>    which parts of the model wrote a logit, summing to it
        worker [options]                           do the jobs that commands with --queue put into a queue
        card [options] <folders...>                make model cards from the files beside them, or hold them against the Hub's rules
        push [options] <folder> <repo>             a folder to a repo of the Hub: what differs, in one commit; a run's checkpoints as revisions
        saliency [options] <model> <images...>     where in an image a class, a text or any output comes from
        heads [options] <model> <images...>        how wide and how far each attention head looks, and which ones do something simple
        demo [options]                             the model that this package carries, on an image that it carries
        cache                                      the Hub cache: what it holds, whether it is whole, its repair
        doctor [options]                           what of Node, onnxruntime, the Hub, its cache and the disk works here
        help [command]                             display help for command
      "
    `)
  })

  it("of each command tells its arguments and options", async () => {
    const helps = await twoAtATime(COMMANDS, (command) => cli([command, "--help"]))
    expect(helps.map(({ code, stderr }) => [code, stderr])).toEqual(COMMANDS.map(() => [0, ""]))
    const [info, ...others] = helps.map(({ stdout }) => stdout.split("\n"))
    expect(info!.join("\n")).toMatchInlineSnapshot(`
      "Usage: vit-prisma info [options] <model>

      what a model, a .safetensors file or an .onnx file holds

      Arguments:
        model                  folder, repo id or file

      Options:
        --format <format>      how results are printed (choices: "human", "json",
                               default: "human")
        --json                 short for --format json
        --revision <name>      branch, tag or commit of a repo (main)
        --cache-dir <dir>      the Hub cache to use
        --offline              ask no server: a repo must be in the cache
        --wait <seconds>       how long a busy Hub may ask to wait (120)
        --allow-pickle         read PyTorch pickles where there is no safetensors;
                               nothing in them is run
        --device <name>        execution provider (choices: "auto", "cpu", "cuda",
                               "webgpu", "dml", "coreml", default: "cpu")
        --threads <n>          threads inside one operator
        --image-size <pixels>  build for another image size
        -h, --help             display help for command
      "
    `)
    // What all commands have is shown once.
    const own = others.map((lines) => lines.filter((line) => line && !info!.includes(line)).join("\n"))
    expect(own.join("\n\n")).toMatchInlineSnapshot(`
      "Usage: vit-prisma run [options] <model> <images...>
      predictions for images
        model                  folder or repo id
        images                 image files
        --top <n>              classes to show (default: 5)
        --batch <n>            images at once (default: 8)
        --on-bad-image <what>  an image that cannot be decoded (choices: "fail",
                               "skip", default: "fail")

      Usage: vit-prisma activations [options] <model> [images...]
      write hooks and outputs of a run to a safetensors file; with --data of a dataset
      to many
        model                  folder or repo id
        images                 image files
        --jobs <n>             processes at a time; by default one a core, as far as
                               memory goes
        --memory <bytes>       what all of them may hold, as 8G; auto is 80 % of what
                               is available (default: "auto")
        --timeout <seconds>    what one may take (default: 1800)
        --grace <seconds>      time to end after Ctrl-C or SIGTERM (default: 25)
        --retries <n>          attempts after one that crashed, hung or lost its
                               connection (default: 1)
        --queue <url>          have them done by workers at redis://host:6379 or
                               postgres://user@host/database
        --cancel               take what this command had put into the queue out of it
        --input <file>         safetensors with pixel_values [b, c, h, w] and
                               input_ids [n, t] instead of images
        --out <file>           safetensors file to write; with --data a folder
        --hooks <globs>        hooks to write, comma-separated; * stands for anything
        --patch <hook=file>    replace a hook by the tensor of its name in a
                               safetensors file; repeatable
        --grad <metric>        write grad.<hook> of every hook asked for: d metric / d
                               hook; "logits[:, 1]" is summed
        --grad-params          write grad.param.<name> of every weight too, under the
                               checkpoint's names
        --data <what>          a dataset by name, or the path of one
        --path <path>          where the dataset of that name lies
        --split <name>         part of the dataset (choices: "train", "test", "val",
                               default: "test")
        --positions <tokens>   only this token, as 0, or these, as 1:197; of a dataset
        --batch <n>            images of a dataset at once (default: 32)
        --shard-size <bytes>   what one file of a dataset may hold (default: "500M")
        --shard <i/n>          only every n-th file, from the i-th on; i counts from 0

      Usage: vit-prisma convert [options] [model]
      write a folder for transformers.js, onnxruntime and this package; with --from
      one for each model of a list
        model                  folder or repo id
        --jobs <n>             processes at a time; by default one a core, as far as
                               memory goes
        --memory <bytes>       what all of them may hold, as 8G; auto is 80 % of what
                               is available (default: "auto")
        --timeout <seconds>    what one may take (default: 1800)
        --grace <seconds>      time to end after Ctrl-C or SIGTERM (default: 25)
        --retries <n>          attempts after one that crashed, hung or lost its
                               connection (default: 1)
        --queue <url>          have them done by workers at redis://host:6379 or
                               postgres://user@host/database
        --cancel               take what this command had put into the queue out of it
        --out <dir>            folder to write; with --from the folder of all
        --hooks <globs>        hooks that become outputs, comma-separated
        --inputs <globs>       hooks that become replaceable inputs, comma-separated
        --certify              compare every value put out with a float64
                               implementation
        --tolerance <x>        largest certified max |a - b| / max(1, max |b|)
                               (default: 0.0001)
        --force                replace the folder if it exists
        --from <file>          a list: one folder or owner/name, or
                               owner/name@revision, a line
        --push <owner>         upload each to owner/<its name> on the Hub
        --private              make the repos that --push makes private
        --shard <i/n>          only every n-th model of the list, from the i-th on; i
                               counts from 0

      Usage: vit-prisma train [options] <config>
      train a small ViT: checkpoints, logs, curves and a model in one folder
        config               induction, circle, mnist, dsprites, cifar10, imagenet, or
                             a config.json
        --format <format>    how results are printed (choices: "human", "json",
                             default: "human")
        --json               short for --format json
        --out <dir>          the run's folder
        --set <field=value>  change a field of the config, as training.lr=1e-3;
                             repeatable
        --data <path>        where the dataset lies (data.path)
        --variant <name>     defaults (choices: "corrected", "seed-exact", default:
                             "corrected")
        --resume             go on from the newest checkpoint in the folder
        --device <name>      execution provider (choices: "auto", "cpu", "cuda",
                             "webgpu", "dml", "coreml")
        --threads <n>        threads inside one operator
        --workers <n>        threads that decode images (default: 1)
        --track <names>      tensorboard, trackio, wandb; metrics.jsonl is always
                             written
        -h, --help           display help for command

      Usage: vit-prisma evaluate [options] <model>
      accuracy and loss of a classifier on a dataset
        model                  folder or repo id
        --data <what>          a dataset by name, or the path of one; by default what
                               the model was trained on here
        --path <path>          where the dataset of that name lies
        --split <name>         part of the dataset (choices: "train", "test", "val",
                               default: "test")
        --batch <n>            images at once (default: 64)

      Usage: vit-prisma patch [options] <model> <clean> <corrupt>
      activation patching: one run's values put into another, site by site
        model                  folder or repo id
        clean                  image
        corrupt                image
        --json [file]          write the results to a file; short for --format json
                               without one
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --hook <name>          hooks, by a short name (resid_pre, z, pattern, mlp_out)
                               or a glob (default: "resid_pre")
        --by <what>            a site for each: token, head or both (default: [])
        --layers <list>        only these layers, as 0,5,-1
        --heads <list>         a site for each of these heads, as 0,3
        --tokens <list>        a site for each of these tokens, as 0,17; special
                               tokens come first
        --region <list>        patches as one site: row,column or
                               row,column,rows,columns
        --metric <text>        one number for each image, as "logits[:, 3]"
        --class <name>         the logit of this class, by index or label; by default
                               what the first image is taken for
        --against <name>       less the logit of this class
        --text <text>          of a dual encoder: likeness to a text
        --text-embeds <file>   safetensors with text_embeds [1, p]: likeness to it
        --batch <n>            images at once (default: 8)
        --rows <file>          write each row as JSON when it is there; rows that the
                               file has are not computed again
        --noise                corrupt values into the clean run; without it clean
                               ones into the corrupt run

      Usage: vit-prisma ablate [options] <model> <images...>
      take values away, site by site, and see what becomes of a metric
        model                  folder or repo id
        images                 image files
        --json [file]          write the results to a file; short for --format json
                               without one
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --hook <name>          hooks, by a short name (resid_pre, z, pattern, mlp_out)
                               or a glob (default: "resid_pre")
        --by <what>            a site for each: token, head or both (default: [])
        --layers <list>        only these layers, as 0,5,-1
        --heads <list>         a site for each of these heads, as 0,3
        --tokens <list>        a site for each of these tokens, as 0,17; special
                               tokens come first
        --region <list>        patches as one site: row,column or
                               row,column,rows,columns
        --metric <text>        one number for each image, as "logits[:, 3]"
        --class <name>         the logit of this class, by index or label; by default
                               what the first image is taken for
        --against <name>       less the logit of this class
        --text <text>          of a dual encoder: likeness to a text
        --text-embeds <file>   safetensors with text_embeds [1, p]: likeness to it
        --batch <n>            images at once (default: 8)
        --rows <file>          write each row as JSON when it is there; rows that the
                               file has are not computed again
        --mode <what>          what is put there (choices: "zero", "mean", "resample",
                               default: "zero")
        --seed <n>             of resampling (default: 0)

      Usage: vit-prisma view [options] <model> [images...]
      where each attention head looks: an interactive page, a picture, or the numbers
      behind them
        model                  folder or repo id; or a .json file that --view-json
                               wrote
        images                 image files
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --layers <list>        only these layers, as 0,5,-1
        --heads <list>         only these heads
        --attention-bytes <n>  what attention may take of a file; more keeps more
                               detail (default: 1000000)

      Usage: vit-prisma lens [options] <model> <images...>
      what the model's head makes of the residual stream at each layer: of the image,
      and of each patch
        model                  folder or repo id
        images                 image files
        --json [file]          write the results to a file; short for --format json
                               without one
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --class <name>         a class, by index or label: its probability and rank at
                               each layer; repeatable
        --text <text>          of a dual encoder: a text in place of a class;
                               repeatable
        --text-embeds <file>   safetensors with text_embeds [n, p] in place of classes
        --layers <list>        only what these layers read, as 0,6,-1; -1 is the end
        --mid                  between attention and MLP too
        --top <n>              largest classes to show (default: 3)
        --emoji                print the largest class of each patch as an emoji

      Usage: vit-prisma attribute [options] <model> <images...>
      which parts of the model wrote a logit, summing to it
        model                  folder or repo id
        images                 image files
        --json [file]          write the results to a file; short for --format json
                               without one
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --class <name>         a class, by index or label; repeatable; by default the
                               most probable
        --text <text>          of a dual encoder: the logit with a text; repeatable
        --text-embeds <file>   safetensors with text_embeds [n, p]: the logit with
                               each
        --against <name>       the difference to this class or text
        --metric <metric>      any output with an index, as "pooler_output[:, 3]"
        --by <what>            what shares are of (choices: "component", "head",
                               "layer", "token", "source", default: "component")
        --top <n>              largest shares to show (default: 20)

      Usage: vit-prisma worker [options]
      do the jobs that commands with --queue put into a queue
        --format <format>    how results are printed (choices: "human", "json",
                             default: "human")
        --json               short for --format json
        --jobs <n>           processes at a time; by default one a core, as far as
                             memory goes
        --memory <bytes>     what all of them may hold, as 8G; auto is 80 % of what is
                             available (default: "auto")
        --timeout <seconds>  what one may take (default: 1800)
        --grace <seconds>    time to end after Ctrl-C or SIGTERM (default: 25)
        --queue <url>        redis://host:6379 or postgres://user@host/database
        --root <dir>         jobs may write below this folder only (default: ".")
        --lock <seconds>     without a sign of life for so long, a worker's jobs are
                             given to another (default: 30)
        --drain              end when the queue is empty
        -h, --help           display help for command

      Usage: vit-prisma card [options] <folders...>
      make model cards from the files beside them, or hold them against the Hub's
      rules
        folders            models' folders, as train and convert leave them
        --format <format>  how results are printed (choices: "human", "json", default:
                           "human")
        --json             short for --format json
        --write            make README.md; what was written by hand outside its marks
                           stays
        --check            hold it against the files beside it too
        --force            replace a text that was written by hand
        --name <text>      what the card calls the model
        --repo <id>        the repo that the model is or will be in, as owner/name
        --license <id>     the licence's identifier, as mit
        --template <file>  another template than model-cards/template.md
        --strip-paths      take absolute paths out of the JSON files beside the card
        -h, --help         display help for command

      Usage: vit-prisma saliency [options] <model> <images...>
      where in an image a class, a text or any output comes from
        model                  folder or repo id
        images                 image files
        --json [file]          write the results to a file; short for --format json
                               without one
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --method <name>        how (docs/saliency.md) (choices: "gradient",
                               "integrated", "smooth", "occlusion",
                               "attention-gradient", "rollout", default:
                               "attention-gradient")
        --class <name>         a class, by index or label; by default the most
                               probable
        --against <name>       the difference to this class
        --text <text>          of a dual encoder: likeness to a text
        --text-embeds <file>   safetensors with text_embeds [1, p]: likeness to it
        --metric <metric>      any output or hook with an index, as "pooler_output[:,
                               3]"
        --steps <n>            of integrated: points on the path (default: 32)
        --samples <n>          of smooth: noisy copies (default: 32)
        --seed <n>             of smooth: the noise (default: 0)
        --window <pixels>      of occlusion: edge of what is covered; the patch size
        --stride <pixels>      of occlusion: from window to window; the window
        --head-fusion <how>    of rollout (choices: "mean", "max", "min", default:
                               "mean")
        --discard-ratio <x>    of rollout: the share of the lowest attention that is
                               left out (default: 0)
        --batch <n>            images at once (default: 8)
        --top <n>              patches to show (default: 5)
        --out <file>           safetensors to write, with what the method gives of
                               every pixel or token

      Usage: vit-prisma heads [options] <model> <images...>
      how wide and how far each attention head looks, and which ones do something
      simple
        model                  folder or repo id
        images                 image files; more make the means surer
        --json [file]          write the results to a file; short for --format json
                               without one
        --html <file>          write an interactive page: one file that needs no
                               network
        --png <file>           write a picture, two pixels to a point
        --svg <file>           write the same picture as SVG
        --view-json <file>     write the numbers behind the page (docs/viewer.md)
        --layers <list>        only these layers, as 0,5,-1
        --level <x>            how far from chance (0) to all (1) a score must be for
                               a head to be named (default: 0.3)
        --unit <unit>          of distances (choices: "pixels", "patches", default:
                               "pixels")

      Usage: vit-prisma demo [options]
      the model that this package carries, on an image that it carries

      Usage: vit-prisma cache [options] [command]
      the Hub cache: what it holds, whether it is whole, its repair
        -h, --help               display help for command
      Commands:
        ls [options]             repos, their commits and bytes
        verify [options] [repo]  read every blob and compare it with its hash; exit 3
                                 where something is damaged
        heal [options] [repo]    verify, and replace or take away what is damaged
        help [command]           display help for command

      Usage: vit-prisma doctor [options]
      what of Node, onnxruntime, the Hub, its cache and the disk works here
        --format <format>  how results are printed (choices: "human", "json", default:
                           "human")
        --json             short for --format json
        --cache-dir <dir>  the Hub cache to use
        --offline          ask no server
        --heal             repair the cache
        -h, --help         display help for command"
    `)
  })

  it("without a command is an error of usage, as is one that does not exist", async () => {
    const [none, version] = await twoAtATime([[], ["--version"]], (args) => cli(args))
    expect([none!.code, none!.stdout]).toEqual([2, ""])
    expect(none!.stderr).toMatch(/^Usage: vit-prisma[\s\S]*\nvit-prisma: no command was given; .* \[E_USAGE\]\n$/)
    expect(version!.stdout).toBe(
      `${(JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version}\n`,
    )
  })
})

/** What each kind of error is provoked by, its code and exit code. Paths are relative to `scratch`. */
const ERRORS: readonly (readonly [what: string, args: readonly string[], code: string, exit: number, message: RegExp])[] = [
  ["unknown command", ["nope"], "E_USAGE", 2, /^unknown command 'nope'; see vit-prisma --help$/],
  ["misspelt command", ["inf", "x"], "E_USAGE", 2, /^unknown command 'inf' \(Did you mean info\?\); see/],
  ["unknown option", ["run", "--nope", "a", "b"], "E_USAGE", 2, /^unknown option '--nope' \(Did you mean --top\?\)/],
  ["token as an option (SE-05)", ["info", "--token=hf_canary0123456789", "a"], "E_USAGE", 2, /^unknown option '--token'/],
  ["unknown format", ["info", "--format", "xml", demoModel], "E_USAGE", 2, /'xml' is invalid. Allowed choices are human, json;/],
  ["missing argument", ["run", demoModel], "E_USAGE", 2, /^missing required argument 'images'/],
  ["surplus argument", ["info", "a", "b"], "E_USAGE", 2, /^too many arguments for 'info'/],
  ["missing option", ["convert", demoModel], "E_USAGE", 2, /^required option '--out <dir>' not specified/],
  ["option without value", ["run", demoModel, "a", "--top"], "E_USAGE", 2, /^option '--top <n>' argument missing/],
  ["not a number", ["run", demoModel, "a", "--top", "0"], "E_USAGE", 2, /'--top <n>' argument '0' is invalid. It must be a whole number of at least 1;/],
  ["not positive", ["convert", demoModel, "--out", "o", "--tolerance", "-1"], "E_USAGE", 2, /'--tolerance <x>' argument '-1' is invalid. It must be a number above 0;/],
  ["unknown choice", ["run", demoModel, "a", "--device", "abacus"], "E_USAGE", 2, /'--device <name>' argument 'abacus' is invalid/],
  ["neither images nor input", ["activations", demoModel, "--out", "o"], "E_USAGE", 2, /^give either --input FILE.safetensors, images, or --data, a dataset$/],
  ["both", ["activations", demoModel, seven, "--input", "x", "--out", "o"], "E_USAGE", 2, /^give either/],
  ["unknown hook", ["activations", demoModel, seven, "--out", "o", "--hooks", "blocks.0.hook_resid"], "E_HOOK", 2, /nearest are "blocks.0.hook_resid_\w+"/],
  ["no such image", ["run", demoModel, "gone.png"], "E_DATASET_GONE", 1, /^image 0: gone.png: /],
  ["not an image", ["run", demoModel, seven, "text.txt"], "E_IMAGE_DECODE", 1, /^image 1: text.txt: /],
  ["no such folder", ["info", "./gone"], "E_INPUT", 1, /^\.\/gone: no such folder$/],
  ["no such file", ["info", "gone.safetensors"], "E_NOT_A_FILE", 1, /^gone.safetensors: does not exist/],
  ["no such graph", ["info", "gone.onnx"], "E_NOT_A_FILE", 1, /^gone.onnx: does not exist/],
  ["no safetensors", ["info", "text.txt"], "E_ST_HEADER_TOO_LARGE", 1, /^text.txt: header length /],
  ["bad repo id", ["info", "a/b/c"], "E_REPO_ID", 1, /"a\/b\/c"/],
  ["unsupported model", ["info", reference("timm-scale-norms")], "E_UNSUPPORTED_ARCH", 1, /beit3_base_patch16_224/],
  ["no classes", ["run", reference("hf-dinov2"), seven], "E_INPUT", 1, /no class logits/],
  ["no preprocessing", ["run", reference("hf-vit-names-v5"), seven], "E_PREPROC", 1, /preprocessor_config.json/],
  ["weights only as a pickle", ["info", "./pickled"], "E_UNSAFE_FORMAT", 3, /--allow-pickle/],
  ["changed weights", ["info", "./flipped"], "E_INTEGRITY", 3, /flipped\/model.safetensors: expected \d+ bytes with sha256/],
  ["changed data of a graph", ["info", "flipped/onnx/model.onnx"], "E_INTEGRITY", 3, /onnx\/model.onnx_data: expected/],
  ["not precise enough", ["convert", demoModel, "--out", "imprecise", "--certify", "--tolerance", "1e-12"], "E_PARITY", 3, /imprecise.certificate.json$/],
  ["not in the cache", ["info", "someone/something", "--offline"], "E_OFFLINE", 4, /hf download someone\/something/],
  ["folder is there", ["convert", demoModel, "--out", "flipped"], "E_OUTPUT", 6, /flipped: exists already/],
  ["folder is a file", ["convert", demoModel, "--out", "text.txt"], "E_OUTPUT", 6, /text.txt: exists already/],
  ["file is a folder", ["activations", demoModel, seven, "--out", "flipped"], "E_OUTPUT", 6, /flipped: is a folder, not a file/],
  ["parent is a file", ["activations", demoModel, seven, "--out", "text.txt/o"], "E_OUTPUT", 6, /text.txt\/o: cannot be written/],
] // prettier-ignore

describe("errors", () => {
  beforeAll(async () => {
    writeFileSync(at("text.txt"), "hello there, this is no image")
    mkdirSync(at("pickled"))
    copyFileSync(join(demoModel, "config.json"), at("pickled/config.json"))
    writeFileSync(at("pickled/pytorch_model.bin"), "")
    expect((await cli(["convert", demoModel, "--out", at("flipped")])).code).toBe(0)
    const data = readFileSync(at("flipped/model.safetensors"))
    data[data.length - 5]! ^= 1
    writeFileSync(at("flipped/model.safetensors"), data) // under its other name too
  })

  it("end with the exit code of their kind: one line on stderr, nothing on stdout, the same twice", async () => {
    const seen = new Set<string>()
    const ended = await twoAtATime(ERRORS, async ([, [command, ...args], code]) => {
      const machine = await cli([command!, "--json", ...args], { cwd: scratch })
      // The other format, of one error of each code.
      const human = seen.has(code) ? undefined : (seen.add(code), await cli([command!, ...args], { cwd: scratch }))
      return { human, machine }
    })
    for (const [i, [what, , code, exit, message]] of ERRORS.entries()) {
      const { human, machine } = ended[i]!
      expect([machine.code, machine.stdout], what).toEqual([exit, ""])
      expect(machine.stderr.trim().split("\n"), what).toHaveLength(1)
      const error = JSON.parse(machine.stderr) as { code: string; message: string; retryable: boolean }
      expect(error.code, what).toBe(code)
      expect(error.message, what).toMatch(message)
      expect(error.retryable, what).toBe(false)
      const said = { code: exit, stdout: "", stderr: `vit-prisma: ${error.message} [${code}]\n` }
      if (human) expect(human, what).toMatchObject(said)
    }
    for (const name of ["o", "imprecise"]) expect(existsSync(at(name)), name).toBe(false)
    expect(JSON.parse(readFileSync(at("imprecise.certificate.json"), "utf8"))).toMatchObject({ tolerance: 1e-12 })
  })

  it("of resources end with 5", async () => {
    const full = `${FAULTS}; Object.assign(globalThis.faults, { only: ["write"], at: 1, code: "ENOSPC" })`
    const broken = `${FAULTS}; Object.assign(globalThis.faults, { only: ["sync"], at: 1, code: "EIO" })`
    const [activations, convert, io] = await Promise.all([
      cli(["activations", demoModel, seven, "--out", at("full")], { preload: full }),
      cli(["convert", demoModel, "--out", at("full"), "--json"], { preload: full }),
      cli(["activations", demoModel, seven, "--out", at("full")], { preload: broken }),
    ])
    expect([activations.code, convert.code, io.code]).toEqual([5, 5, 5])
    expect(activations.stderr).toContain("[E_DISK_FULL]")
    expect(JSON.parse(convert.stderr)).toMatchObject({ code: "E_DISK_FULL", file: at("full/model.safetensors") })
    expect(io.stderr).toContain("[E_IO]")
    expect(existsSync(at("full"))).toBe(false)
  })

  it("of ours keep their stack and end with 70", async () => {
    const preload = `process.stdout.write = function planted() { throw new TypeError("planted") }`
    const [human, machine] = await Promise.all([
      cli(["info", demoModel], { preload }),
      cli(["info", demoModel, "--format", "json"], { preload }),
    ])
    expect([human.code, machine.code]).toEqual([70, 70])
    expect(human.stderr).toMatch(/^TypeError: planted\n +at .*planted/)
    expect(JSON.parse(machine.stderr)).toMatchObject({
      code: "E_INTERNAL",
      message: expect.stringMatching(/^TypeError: planted\n +at /),
    })
  })
})
