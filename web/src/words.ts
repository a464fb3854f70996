// English and Chinese. Every text of the page stands here.

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
  hintMask: ['Write the mask token where a word is to be found.', '在要预测的位置写上掩码符号。'],
  hintSearch: ['Lines in the order of their nearness to the query (cosine of their embeddings).', '按与查询的接近程度（向量余弦）排列。'],
  json: ['Input as JSON', 'JSON 输入'],
  none: ['nothing found', '没有结果'],
  times: ['round trip {0} ms; in the server: {1} ms in all, {2} queue, {3} inference; {4} tokens', '往返 {0} 毫秒；服务器内：共 {1} 毫秒，排队 {2}，推理 {3}；{4} 个词元'],
  gridHelp: ['Every head of every layer: rows look, columns are looked at. Choose one.', '每层的每个头：行是查询词元，列是被关注的词元。点击选择。'],
  layer: ['layer', '层'],
  head: ['head', '头'],
  lines2: ['Who looks at whom', '谁在看谁'],
  linesHelp: ['Choose a token on the left; the lines are its weights. Without a choice all are shown.', '点击左侧词元，线的粗细是它的注意力权重；不选则全部显示。'],
  steps: ['One head, step by step', '一个头，逐步计算'],
  stepQ: ['The query of the token is a row of D numbers that the model computes from its state:', '该词元的查询向量 q，是模型由其状态算出的 D 个数：'],
  stepK: ['Every token has a key of D numbers. Their product says how well the two fit:', '每个词元有一个键向量 k。乘积表示两者有多契合：'],
  stepScale: ['The products grow with D, so they are multiplied by {0}:', '乘积随 D 变大，所以乘以 {0}：'],
  stepSoftmax: ['The softmax makes weights of them, all positive, that sum to 1:', 'softmax 把它们变成权重，全为正，和为 1：'],
  product: ['q·k', 'q·k'],
  score: ['scaled', '缩放后'],
  weight: ['weight', '权重'],
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

let language: 0 | 1 = (localStorage.getItem('language') ?? navigator.language).startsWith('zh') ? 1 : 0

export function say(word: Word, ...values: (string | number)[]) {
  return words[word][language].replace(/\{(\d)\}/g, (_, i) => String(values[Number(i)] ?? ''))
}

export function otherLanguage() {
  language = language === 0 ? 1 : 0
  localStorage.setItem('language', language === 1 ? 'zh' : 'en')
}

export const languageTag = () => (language === 1 ? 'zh' : 'en')
