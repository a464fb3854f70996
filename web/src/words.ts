// English and Chinese. Every text of the page stands here.

import { recall, remember } from './memory'

const words = {
  try: ['Try', '试用'],
  attention: ['Attention', '注意力'],
  training: ['Training', '训练'],
  model: ['Model', '模型'],
  theme: ['Dark', '深色'],
  language: ['中文', 'English'],
  routes: ['Routes', '接口'],
  run: ['Run', '运行'],
  busy: ['…', '…'],
  text: ['Text', '文本'],
  lines: ['Texts, one a line', '文本，每行一条'],
  query: ['Query', '查询'],
  question: ['Question', '问题'],
  context: ['Context', '上下文'],
  fillMask: ['Fill the mask', '完形填空'],
  classify: ['Classify', '分类'],
  tag: ['Entities', '实体'],
  answer: ['Answer', '问答'],
  search: ['Search lines', '逐行检索'],
  similarity: ['Similarity', '相似度'],
  rerank: ['Re-rank', '重排'],
  tokens: ['Tokens', '分词'],
  route_decode: ['Ids to text', '编号转文本'],
  route_score: ['Likelihood', '似然'],
  route_recommend: ['Recommend', '推荐'],
  route_choose: ['Choose', '选择'],
  'route_zero-shot': ['Labels of your own', '自定标签'],
  route_extract: ['Summarise', '摘要'],
  hintMask: ['Write the mask token where a word is to be found.', '在要预测的位置写上掩码符号。'],
  hintSearch: ['Lines in the order of their nearness to the query (cosine of their embeddings).', '按与查询的接近程度（向量余弦）排列。'],
  json: ['Input as JSON', 'JSON 输入'],
  none: ['nothing found', '没有结果'],
  times: ['round trip {0} ms; in the server: {1} ms in all, {2} queue, {3} inference; {4} tokens', '往返 {0} 毫秒；服务器内：共 {1} 毫秒，排队 {2}，推理 {3}；{4} 个词元'],
  modelView: ['Model view', '模型视图'],
  headView: ['Head view', '注意力头视图'],
  neuronView: ['Neuron view', '神经元视图'],
  texts: ['Texts', '文本'],
  gridHelp: ['Every head of every layer: rows look, columns are looked at. Choose one, also by the arrow keys.', '每层的每个头：行是查询词元，列是被关注的词元。点击或用方向键选择。'],
  gridEffects: ['The stripe below a head says how much the answer loses without it.', '头下方的条纹表示去掉它之后答案变差多少。'],
  overlay: ['all heads of the layer', '显示该层所有头'],
  isOff: ['off', '已关闭'],
  switchOff: ['Switch this head off', '关闭这个头'],
  switchOn: ['Switch this head on', '打开这个头'],
  allOn: ['Switch all heads on', '打开所有头'],
  tryAll: ['Try without each head', '逐个去掉每个头'],
  offHelp: ['Switch heads off above and see the answer change.', '在上方关闭注意力头，观察答案的变化。'],
  ablation: ['Without a head', '去掉一个头'],
  ablationHelp: ['A head that is off gives zeros to the output projection.', '被关闭的头向输出投影提供全零。'],
  measure_loss: ['The loss is the mean of −ln p of the words that are looked for; it grows as the answer gets worse.', '损失是目标词 −ln p 的平均值，答案越差损失越大。'],
  measure_probability: ['The probability is that of what the whole model answers.', '概率指完整模型所给答案的概率。'],
  measure_number: ['The number is what the model answers.', '数值即模型的输出。'],
  measure_cosine: ['The cosine compares the vector with that of the whole model.', '余弦值将向量与完整模型的向量作比较。'],
  name_loss: ['loss', '损失'],
  name_probability: ['probability', '概率'],
  name_number: ['number', '数值'],
  name_cosine: ['cosine', '余弦'],
  loseLoss: ['How much the loss grows without each head alone; below 0 it falls.', '单独去掉每个头后损失增加多少；负值表示损失下降。'],
  loseShare: ['How much is lost without each head alone; below 0 it is gained.', '单独去掉每个头后损失多少；负值表示有所提高。'],
  loseNumber: ['How far the number moves without each head alone.', '单独去掉每个头后数值变化多少。'],
  matterMost: ['The heads that matter most', '最重要的头'],
  allHeads: ['with all heads', '使用所有头'],
  withoutHeads: ['without {0}', '去掉 {0}'],
  likelihood: ['ln p of {1} tokens {0}, perplexity {2}', '{1} 个词元的 ln p 为 {0}，困惑度 {2}'],
  queryToken: ['query token', '查询词元'],
  keyToken: ['key token', '键词元'],
  signs: ['blue above 0, orange below', '蓝色为正，橙色为负'],
  layer: ['layer', '层'],
  head: ['head', '头'],
  linesHelp: ['Choose a token on the left, and the lines are its weights alone; the thicker a line, the larger its weight.', '点击左侧词元只看它的连线；线越粗，注意力权重越大。'],
  stepQ: ['Query and key are rows of D numbers that the model computes from the states of the two tokens.', '查询 q 与键 k 各是 D 个数，由模型从两个词元的状态算出。'],
  stepK: ['Their product says how well the two fit.', '它们的乘积表示两者有多契合。'],
  stepScale: ['Products grow with D, so they are multiplied by {0}.', '乘积随 D 变大，所以乘以 {0}。'],
  stepBias: ['Products grow with D, so they are multiplied by {0}; the distance of the key adds a learned number b.', '乘积随 D 变大，所以乘以 {0}；再按键的距离加上学到的数 b。'],
  stepSoftmax: ['The softmax makes weights of them, all positive, that sum to 1.', 'softmax 把它们变成权重，全为正，和为 1。'],
  stepUnseen: ['This key lies outside of what the query sees.', '该键不在此查询的可见范围内。'],
  key: ['key', '键'],
  sample: ['The cat sat on the mat', '猫坐在垫子上'],
  otherSample: ['猫坐在垫子上', 'The cat sat on the mat'],
  noRuns: ['No runs to show. Start the server with --runs DIR, where DIR holds training runs.', '没有可显示的训练。启动时加上 --runs DIR，DIR 是存放训练的目录。'],
  loss: ['Loss', '损失'],
  rate: ['Learning rate', '学习率'],
  speed: ['Tokens a second', '每秒词元数'],
  step: ['step', '步'],
  example1: ['The capital of France is {0}.', '法国的首都是{0}黎。'],
  example2: ['I like this film very much.', '我非常喜欢这部电影。'],
  example3: ['Angela Merkel was born in Hamburg.', '鲁迅出生于浙江绍兴。'],
  exampleQ: ['Where was she born?', '鲁迅出生在哪里？'],
  exampleLines: ['A cat sits on a rug\nIt will rain tomorrow\nThe dog sleeps', '猫坐在地毯上\n明天会下雨\n狗在睡觉'],
} as const

export type Word = keyof typeof words

let language: 0 | 1 = (recall('language') ?? navigator.language).startsWith('zh') ? 1 : 0

export function say(word: Word, ...values: (string | number)[]) {
  return words[word][language].replace(/\{(\d)\}/g, (_, i) => String(values[Number(i)] ?? ''))
}

export function otherLanguage() {
  language = language === 0 ? 1 : 0
  remember('language', language === 1 ? 'zh' : 'en')
}

/** The name of a route without a view of its own. */
export function nameOf(route: string) {
  const word = `route_${route.slice(1)}`
  return word in words ? say(word as Word) : route.slice(1)
}

export const languageTag = () => (language === 1 ? 'zh' : 'en')
