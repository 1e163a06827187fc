/** @file Words that the Hub's metadata takes from fixed lists: licences, tasks, how a model follows from another. */

const words = (text: string): ReadonlySet<string> => new Set(text.trim().split(/\s+/))

/** https://huggingface.co/docs/hub/repositories-licenses, as the Hub's own refusal listed them in May 2026
 * (https://github.com/huggingface/huggingface_hub/issues/4218). */
export const LICENSES = words(`
  apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
  artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
  cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
  cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
  epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
  intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1
  ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
  llama3.3 llama4 grok2-community gemma unknown other`)

/** https://github.com/huggingface/huggingface.js/blob/main/packages/tasks/src/pipelines.ts */
export const TASKS = words(`
  any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition depth-estimation
  document-question-answering feature-extraction fill-mask graph-ml image-classification image-feature-extraction
  image-segmentation image-text-to-image image-text-to-text image-text-to-video image-to-3d image-to-image image-to-text
  image-to-video keypoint-detection mask-generation multiple-choice object-detection other question-answering
  reinforcement-learning robotics sentence-similarity summarization table-question-answering table-to-text
  tabular-classification tabular-regression tabular-to-text text-classification text-generation text-ranking text-retrieval
  text-to-3d text-to-audio text-to-image text-to-speech text-to-video text2text-generation time-series-forecasting
  token-classification translation unconditional-image-generation video-classification video-text-to-text video-to-video
  visual-document-retrieval visual-question-answering voice-activity-detection zero-shot-classification
  zero-shot-image-classification zero-shot-object-detection`)

/** https://huggingface.co/docs/hub/model-cards#specifying-a-base-model */
export const RELATIONS = words("finetune adapter merge quantized")

/** What stands for no language of people. */
const SPECIAL = words("code multilingual")

let names: Intl.DisplayNames | undefined
/** The name of a language, at first use: making the table takes 15 ms. */
const languageName = (code: string): string | undefined =>
  (names ??= new Intl.DisplayNames(["en"], { type: "language", fallback: "none" })).of(code)

/** ISO 639-1 with two letters, which are all known here, or 639-2 and 639-3 with three. */
export const isLanguage = (text: string): boolean =>
  SPECIAL.has(text) || /^[a-z]{3}$/.test(text) || (/^[a-z]{2}$/.test(text) && languageName(text) !== undefined)
