//! The Chinese words. Things and props carry their measure word, places the word for "in" or "on" when it is not 里.
//!
//! Patterns as in English: `{T}` a thing as subject, `{t}` as object, `{一t}` with number and measure word, `{P}` a person,
//! `{x}` a prop, `{在l}` in a place, `{S}` who tells the story.

use super::Polarity::{Negative, Positive};
use super::Topic;
use super::lexicon::{Class, Role, Tone};

struct TopicWords {
    topic: Topic,
    things: &'static str,
    people: &'static str,
    places: &'static str,
    props: &'static str,
    good: &'static str,
    bad: &'static str,
    acts: &'static [&'static str],
    events: &'static [&'static str],
}

const TOPICS: [TopicWords; 6] = [
    TopicWords {
        topic: Topic::Food,
        things: "鸡汤/碗 米饭/碗 饺子/盘 包子/笼 馒头/个 春卷/份 火锅/顿 烤鸭/份 牛排/份 沙拉/份 披萨/份 汉堡/个 三明治/个 \
                 蛋糕/块 布丁/份 豆腐/盘 红烧肉/盘 青菜/盘 咖喱/份 煎饼/张 白粥/碗 馄饨/碗 龙虾/份 鲈鱼/条 螃蟹/盘 \
                 面条/碗",
        people: "服务员 厨师 老板娘 面包师 点心师傅 主厨 店小二 帮厨 掌勺人 收银员",
        places: "餐厅 饭馆 咖啡馆 食堂 小吃街/上 酒楼 茶馆 大排档 面馆 甜品店",
        props: "筷子/双 勺子/把 盘子/个 菜单/份 围裙/条 锅铲/把 餐巾/张 茶壶/把 烤箱/台 冰箱/台 砧板/块 菜刀/把",
        good: "美味 可口 香甜 爽口 入味 地道 解馋 开胃 鲜美 诱人",
        bad: "难吃 油腻 寡淡 苦涩 夹生 腥 生硬 焦糊 干硬 难闻",
        acts: &[
            "{S}点了{一t}",
            "{S}尝了尝{t}",
            "{P}端上了{一t}",
            "{S}晚上做了{一t}",
            "{S}午饭吃了{一t}",
            "{P}给大家介绍了{t}",
            "{S}打包了{一t}",
            "{P}在后厨准备{t}",
        ],
        events: &[
            "{P}把{x}放在桌子上",
            "{P}拿来了{一x}",
            "{S}肚子饿了，拿起了{一x}",
            "{P}饭后洗干净了{x}",
            "{P}往{t}里加了一点盐",
            "{S}向{p}要了{一x}",
            "{P}切好葱花，拿出了{x}",
            "{S}结了账，和{p}道了别",
            "{P}一边看着{x}一边做{t}",
            "{t}还没做好，{P}先擦了擦{x}",
        ],
    },
    TopicWords {
        topic: Topic::Travel,
        things: "海滩/片 海岛/座 古城/座 城堡/座 寺庙/座 博物馆/座 瀑布/处 峡谷/道 草原/片 沙漠/片 夜市/个 古镇/座 雪山/座 \
                 湖泊/个 竹林/片 皇宫/座 教堂/座 石窟/处 梯田/片 村落/个 温泉/处 火山/座 冰川/条 森林公园/座 胡同/条 \
                 大桥/座",
        people: "导游 司机 空姐 船长 乘客 游客 前台小姐 向导 领队 房东",
        places: "酒店 机场 火车站 码头/上 度假村 旅馆 青年旅社 服务区 民宿 旅行社",
        props: "护照/本 行李箱/个 车票/张 地图/张 背包/个 相机/台 明信片/张 帐篷/顶 签证/份 登机牌/张 房卡/张 指南针/个",
        good: "壮观 秀丽 迷人 浪漫 惬意 宁静 如诗如画 神秘 气派 幽静",
        bad: "拥挤 破烂 商业化 脏乱 偏僻 吵闹 破败 坑人 危险 荒凉",
        acts: &[
            "{S}参观了{t}",
            "{S}给{t}拍了照",
            "{S}坐火车去了{t}",
            "{P}带大家游览了{t}",
            "{S}从车窗里看到了{t}",
            "{P}介绍了{t}的历史",
            "{S}沿着小路走到了{t}",
            "{S}计划去看{t}",
        ],
        events: &[
            "{S}收拾好了{x}和{x}",
            "{P}检查了{x}",
            "{S}出发前买了{一x}",
            "{S}把{x}落在了车上",
            "{S}迷了路，向{p}打听{t}怎么走",
            "飞机晚点了，{S}一边等一边看{x}",
            "{P}指着{t}讲了一个故事",
            "{S}在去{t}的路上丢了{x}",
            "{P}举着{x}走在最前面",
            "{S}过了河，终于看到了{t}",
        ],
    },
    TopicWords {
        topic: Topic::Sport,
        things: "比赛/场 决赛/场 训练/次 马拉松/场 锦标赛/届 接力/场 友谊赛/场 联赛/届 拳击/场 运动会/届 击剑/场 体操/场 \
                 跳水/场 长跑/次 半决赛/场 淘汰赛/场 点球大战/场 对抗赛/场 自由泳/场 举重/场 摔跤/场 射箭/场 滑雪/场 \
                 花样滑冰/场 帆船赛/场 篮球赛/场",
        people: "守门员 教练 裁判 队长 后卫 前锋 替补 选手 冠军 拳手",
        places: "体育馆 操场/上 健身房 游泳池 溜冰场 更衣室 跑道/上 看台/上 俱乐部 射击场",
        props: "足球/个 哨子/个 头盔/顶 球拍/副 奖杯/座 奖牌/块 球衣/件 钉鞋/双 记分牌/块 自行车/辆 标枪/支 杠铃/副",
        good: "激烈 扣人心弦 热血 振奋人心 紧张刺激 顽强 沉着 酣畅 过瘾 流畅",
        bad: "拖沓 窝囊 散漫 懈怠 糟心 混乱 疲软 消极 丢脸 僵硬",
        acts: &[
            "{S}观看了{t}",
            "{S}在电视上看了{t}",
            "{P}为{t}苦练了一个月",
            "{S}报名参加了{t}",
            "{P}在{t}中拿了第一名",
            "{S}熬夜等着看{t}",
            "{P}带队准备{t}",
            "{S}给大家讲解了{t}",
        ],
        events: &[
            "{P}把{x}扔给了{p}",
            "{P}上半场连进两个球",
            "{P}在{t}前热身",
            "{P}高高举起了{x}",
            "{P}在终点线前超过了{p}",
            "{S}跑了五圈，然后收起了{x}",
            "{P}拿起了{一x}",
            "球迷们为{t}唱起了歌",
            "{P}在{t}中扭伤了脚",
            "{P}犯规以后，{P}吹响了口哨",
        ],
    },
    TopicWords {
        topic: Topic::Technology,
        things: "电脑/台 手机/部 平板/台 软件/款 网站/个 打印机/台 浏览器/款 耳机/副 路由器/台 显示器/台 操作系统/套 \
                 搜索引擎/款 智能手表/块 无人机/架 机器人/台 数据库/个 服务器/台 处理器/款 扫描仪/台 投影仪/台 触摸屏/块 \
                 聊天程序/个 导航/款 摄像头/个 硬盘/块 杀毒程序/款",
        people: "程序员 工程师 开发者 设计师 技术员 黑客 测试员 分析师 管理员 发明家",
        places: "办公室 实验室 机房 维修店 软件园 数据中心 研究所 展览馆 创业公司 电子城",
        props: "数据线/根 键盘/个 按钮/个 插头/个 内存卡/张 电池/块 传感器/个 电路板/块 天线/根 螺丝刀/把 说明书/本 \
                 开关/个",
        good: "可靠 好用 智能 高效 强大 先进 稳定 省电 轻便 安全",
        bad: "卡顿 落后 笨重 耗电 脆弱 过时 迟钝 难用 粗制滥造 臃肿",
        acts: &[
            "{S}安装了{t}",
            "{S}重启了{t}",
            "{P}测试了{t}",
            "{P}重新设计了{t}",
            "{S}把{t}连上了网络",
            "{P}一个小时就修好了{t}",
            "{S}升级了{t}",
            "{S}用旧款换了{一t}",
        ],
        events: &[
            "{S}找到{x}，按下了回车键",
            "{P}换掉{x}，打开了{t}",
            "{P}为{t}写了一段代码",
            "{P}把{x}接到了{t}上",
            "{S}忘了密码，打电话问{p}",
            "{P}说明了{x}的用途",
            "{P}上传了{t}的资料",
            "{S}拔下{x}，等待信号",
            "{P}给{t}的数据加了密",
            "{P}在大屏幕上展示了{t}",
        ],
    },
    TopicWords {
        topic: Topic::Weather,
        things: "天气/种 微风/阵 春雨/场 小雪/场 薄雾/层 毛毛雨/场 海风/阵 初雪/场 北风/阵 云层/片 晨雾/层 秋雨/场 山风/阵 \
                 雾气/股 露水/层 阴雨/场 湿气/股 西北风/阵 初霜/层 暖流/股 细雨/场 雷阵雨/场 晚风/阵 大雪/场 寒潮/股 \
                 南风/阵",
        people: "预报员 气象学家 农民 水手 园丁 牧羊人 渔夫 守塔人 护林员 养蜂人",
        places: "山谷 海岸/上 山坡/上 湖边/- 草地/上 气象站 山区 河岸/上 田野 灯塔/上",
        props: "雨伞/把 雨衣/件 温度计/支 气压计/个 围巾/条 水桶/个 墨镜/副 雪铲/把 气象图/张 手套/副 日晷/座 雨量筒/个",
        good: "柔和 清爽 怡人 清新 宜人 舒服 舒爽 迷人 温和 美丽",
        bad: "恶劣 凄凉 阴沉 恼人 萧瑟 难熬 压抑 惨淡 反常 凛冽",
        acts: &[
            "{P}预报了{t}",
            "{S}日出时注意到了{t}",
            "{P}每个小时都记录{t}",
            "{S}出门遇到了{t}",
            "{P}提醒村民注意{t}",
            "{S}拉开窗帘，看到了{t}",
            "{P}用气球研究{t}",
            "{S}听广播说起了{t}",
        ],
        events: &[
            "{S}说着{t}，关上了窗户",
            "{P}把{t}写进了日记",
            "{S}出门前带上了{x}",
            "{P}抬头看天，放下了{x}",
            "新闻里整天都在说{t}",
            "{P}把{x}挂在墙上",
            "{S}打着哆嗦找{x}",
            "大家都没料到{t}",
            "{P}说了说明天的温度和{t}",
            "{S}忘了带{x}，衣服全湿了",
        ],
    },
    TopicWords {
        topic: Topic::Music,
        things: "歌曲/首 演唱会/场 专辑/张 旋律/段 交响曲/首 歌剧/部 民谣/首 二重唱/段 独奏/段 合唱/段 国歌/首 摇篮曲/首 \
                 原声带/张 奏鸣曲/首 圆舞曲/首 序曲/首 进行曲/首 小夜曲/首 副歌/段 前奏/段 爵士乐/段 摇滚乐/段 山歌/首 \
                 主题曲/首 新单曲/首 协奏曲/首",
        people: "歌手 鼓手 吉他手 钢琴家 小提琴手 指挥 作曲家 贝斯手 女高音 男中音",
        places: "音乐厅 歌剧院 酒吧 录音棚 琴行 排练室 礼堂 唱片店 剧场 舞台/上",
        props: "吉他/把 钢琴/架 小提琴/把 大提琴/把 架子鼓/套 小号/支 长笛/支 麦克风/个 扩音器/个 乐谱/本 萨克斯/支 \
                 竖琴/架",
        good: "悦耳 动听 悠扬 婉转 欢快 激昂 抒情 深情 优雅 空灵",
        bad: "刺耳 聒噪 单调 嘈杂 老套 难听 空洞 沙哑 杂乱 俗套",
        acts: &[
            "{S}听了{t}",
            "{P}排练了{t}",
            "{S}轻轻哼着{t}",
            "{P}一遍就录好了{t}",
            "{S}跟着{t}跳舞",
            "{P}深夜创作了{一t}",
            "{S}在收音机里听到了{t}",
            "{P}不看谱就演奏了{t}",
        ],
        events: &[
            "{P}演出前调好了{x}",
            "{P}没用{x}就唱了第一段",
            "{S}练了两个小时{x}",
            "{P}教{p}怎么拿{x}",
            "{T}结束后，{P}向观众鞠躬",
            "{S}跟着{t}打拍子",
            "{P}把{x}放在{x}旁边",
            "{P}用{x}和{x}改编了{t}",
            "{P}和{p}一起表演了{t}",
            "{S}调大了音量听{t}",
        ],
    },
];

const ANY: [&str; 2] = [
    "精彩 出色 完美 优秀 理想 一流 独特 惊艳 卓越 绝妙 讨喜 了不起 棒 赞 美妙 珍贵 成功 吸引人",
    "糟糕 差劲 失败 可怕 无聊 乏味 讨厌 平庸 枯燥 拙劣 烂 荒唐 离谱 敷衍 劣质 可悲 烦人 丑陋",
];
const PERSON: [&str; 2] = [
    "热情 友好 耐心 礼貌 亲切 周到 幽默 谦虚 善良 敬业 真诚 体贴 细心 大方",
    "粗鲁 傲慢 懒惰 冷漠 自私 马虎 蛮横 虚伪 刻薄 暴躁 不耐烦 小气 贪心 固执",
];
const PLACE: [&str; 2] = ["干净 整洁 舒适 温馨 宽敞 明亮 雅致 安静 气派 通风", "肮脏 简陋 狭窄 昏暗 破旧 闷 嘈杂 臭 邋遢 阴森"];
const FEELING: [&str; 2] = ["高兴 开心 满意 激动 感动 幸福 欣慰 愉快 陶醉 舒心", "失望 生气 难过 郁闷 愤怒 伤心 沮丧 烦躁 后悔 委屈"];
const ATTITUDE: [&str; 2] = ["喜欢 欣赏 享受 热爱 佩服 推崇 赞赏 怀念 珍惜", "厌恶 反感 嫌弃 看不惯 鄙视 看不起 排斥 痛恨 憎恨"];
const OUTCOME: [&str; 2] = [
    "一种享受 一个奇迹 一件杰作 一份惊喜 一个亮点 一大乐事 一件珍品 一个典范 一段佳话",
    "一场灾难 一个笑话 一场噩梦 一团糟 一种折磨 一个败笔 一场闹剧 一种浪费 一个耻辱",
];
/// After a verb and 得.
const MANNER: [&str; 2] = ["漂亮 完美 出色 周全 利落 巧妙 到位 干脆 无懈可击", "糟糕 拖拉 草率 笨拙 马虎 潦草 一塌糊涂 乱七八糟 漏洞百出"];

/// All classes with their words.
pub(super) fn entries() -> Vec<(Class, Vec<&'static str>)> {
    let words = |list: &'static str| list.split_whitespace().collect::<Vec<_>>();
    let mut entries = Vec::new();
    for t in &TOPICS {
        entries.push((Class::Topic(t.topic, Role::Thing), words(t.things)));
        entries.push((Class::Topic(t.topic, Role::Person), words(t.people)));
        entries.push((Class::Topic(t.topic, Role::Place), words(t.places)));
        entries.push((Class::Topic(t.topic, Role::Prop), words(t.props)));
        entries.push((Class::Topic(t.topic, Role::Act), t.acts.to_vec()));
        entries.push((Class::Topic(t.topic, Role::Event), t.events.to_vec()));
        entries.push((Class::Tone(Positive, Tone::Thing(t.topic)), words(t.good)));
        entries.push((Class::Tone(Negative, Tone::Thing(t.topic)), words(t.bad)));
    }
    for (p, polarity) in [Positive, Negative].into_iter().enumerate() {
        for (tone, list) in [
            (Tone::Any, ANY),
            (Tone::Person, PERSON),
            (Tone::Place, PLACE),
            (Tone::Feeling, FEELING),
            (Tone::Attitude, ATTITUDE),
            (Tone::Outcome, OUTCOME),
            (Tone::Manner, MANNER),
        ] {
            entries.push((Class::Tone(polarity, tone), words(list[p])));
        }
    }
    entries
}
